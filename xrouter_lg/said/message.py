"""What a message says, live or recorded: its role, text, tool calls and other blocks.

Every reading takes a LangChain message or what became of one in JSON: LangChain's constructor form
(``dumpd``, LangSmith's runs), ``message_to_dict``, ``model_dump``, or OpenAI's role and content.
Serving and training read with the same functions, so they can't disagree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage

Message = dict[str, Any]

_ROLES = {"human": "user", "ai": "assistant"}
# Their content stands in ``tool_calls``, or is the model's own scratch paper.
_BLOCKS_LEFT_OUT = frozenset({"tool_use", "tool_call", "function_call", "thinking", "reasoning"})


def fields_of(message: Any) -> Mapping[str, Any]:
    """A message's fields by name, whichever way it was recorded; empty for what is no message."""
    if isinstance(message, BaseMessage):
        return vars(message)
    if not isinstance(message, Mapping):
        return {}
    for wrapper in ("kwargs", "data"):  # LangChain's constructor form, and message_to_dict's
        inner = message.get(wrapper)
        if isinstance(inner, Mapping):
            if inner.get("type") or inner.get("role"):
                return inner
            path = message.get("id")  # older ones say what they are in the class's path only
            named = path[-1] if isinstance(path, list | tuple) and path else message.get("type")
            return {**inner, "type": named}
    return message


def response_metadata_of(message: Any) -> Mapping[str, Any]:
    """What the provider said beside the answer, and the router's record."""
    return mapping(fields_of(message).get("response_metadata"))


def plain_message(value: Any) -> Message | None:
    """A message as ``role`` and ``content``, with ``tool_calls`` (name, args, id),
    ``tool_call_id``, ``name`` and a tool's ``status`` where they say something; None for what is
    no message."""
    fields = fields_of(value)
    kind = fields.get("role") or fields.get("type")
    calls = tool_calls_of(fields)
    if not isinstance(kind, str) or not (calls or "content" in fields):
        return None
    content = fields.get("content")
    plain: Message = {"role": _role(kind), "content": "" if content is None else content}
    if calls:
        plain["tool_calls"] = calls
    plain |= {name: fields[name] for name in ("tool_call_id", "name") if fields.get(name)}
    if fields.get("status") == "error":
        plain["status"] = "error"
    return plain


def plain_messages(values: Any) -> tuple[Message, ...]:
    """The messages of a list as :func:`plain_message` gives them; what is none is left out."""
    if not isinstance(values, list | tuple):
        return ()
    return tuple(plain for value in values if (plain := plain_message(value)) is not None)


def tool_calls_of(message: Any) -> list[dict[str, Any]]:
    """A message's tool calls as name, args and id, from LangChain's form or OpenAI's."""
    found = []
    calls = fields_of(message).get("tool_calls")
    for call in calls if isinstance(calls, list | tuple) else ():
        if not isinstance(call, Mapping):
            continue
        function = call.get("function")
        if isinstance(function, Mapping):
            args: Any = function.get("arguments") or "{}"
            try:
                args = json.loads(args) if isinstance(args, str) else args
            except ValueError:
                args = {"arguments": args}
            found.append({"name": function.get("name"), "args": args, "id": call.get("id")})
        else:
            found.append({name: call.get(name) for name in ("name", "args", "id")})
    return found


def text_of(said: Any) -> str:
    """The text of a message, or of a message's content; other blocks leave none."""
    content = said if isinstance(said, str | list | tuple) else fields_of(said).get("content")
    if isinstance(content, str):
        return str(content)
    if not isinstance(content, list | tuple):
        return ""
    parts = (b if isinstance(b, str) else b.get("text") for b in content if _is_text(b))
    return "".join(part for part in parts if isinstance(part, str))


def question_of(messages: Sequence[Any]) -> Any:
    """The message that says what is asked: the last one; behind the results of tools the user's
    last one, which the tools were called for. The last one too where no user has spoken."""
    if _role_of(messages[-1]) != "tool":
        return messages[-1]
    asked = (message for message in reversed(messages) if _role_of(message) == "user")
    return next(asked, messages[-1])


def other_blocks(content: Any) -> list[Mapping[str, Any]]:
    """Images, files and whatever else stands in a content that is not text."""
    if not isinstance(content, list | tuple):
        return []
    found = [b for b in content if isinstance(b, Mapping) and not _is_text(b)]
    return [block for block in found if block.get("type") not in _BLOCKS_LEFT_OUT]


def answer_of(message: Any) -> str | None:
    """What a verifier judges of an answer: its text; of one that only calls tools, the calls as
    JSON. None without a message."""
    fields = fields_of(message)
    if not fields:
        return None
    text = text_of(fields)
    calls = tool_calls_of(fields)
    if text or not calls:
        return text
    said = [{"name": call["name"], "args": call["args"]} for call in calls]
    return json.dumps(said, ensure_ascii=False, default=str)


def _role_of(message: Any) -> str:
    fields = fields_of(message)
    return _role(str(fields.get("role") or fields.get("type")))


def _role(kind: str) -> str:
    """OpenAI's name of a role, from LangChain's type or class."""
    name = kind.removesuffix("Chunk").removesuffix("Message")
    name = kind if name == kind else name.lower()
    return _ROLES.get(name, name)


def _is_text(block: Any) -> bool:
    return isinstance(block, str) or (
        isinstance(block, Mapping) and block.get("type", "text") in ("text", "output_text")
    )


def mapping(value: Any) -> Mapping[str, Any]:
    """The value where it is a mapping, else an empty one."""
    # A dict as a rule, and asked dozens of times an answer: an abstract class takes far longer.
    return value if type(value) is dict or isinstance(value, Mapping) else {}
