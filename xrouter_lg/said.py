"""What a message says, live or recorded: text, tool calls, usage, model, cost, how it ended.

Every reading takes a LangChain message or what became of one in JSON: LangChain's constructor form
(``dumpd``, LangSmith's runs), ``message_to_dict``, ``model_dump``, or OpenAI's role and content.
Serving and training read with the same functions, so they can't disagree.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from langchain_core.messages import BaseMessage

from xrouter_lg.errors import ErrorClass
from xrouter_lg.types import TokenUsage

Message = dict[str, Any]
Run = Mapping[str, Any]
"""A run in the trace store's layout (:func:`xrouter_lg.tracing.runs.importing.plain_run`)."""

CUT = frozenset({ErrorClass.TRUNCATED, ErrorClass.CONTENT_FILTER})
"""Flaws that may leave a part of an answer, which is handed on marked as cut."""

_ROLES = {"human": "user", "ai": "assistant"}
# Their content stands in ``tool_calls``, or is the model's own scratch paper.
_BLOCKS_LEFT_OUT = frozenset({"tool_use", "tool_call", "function_call", "thinking", "reasoning"})


# --- a message -----------------------------------------------------------------------------


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
    return _mapping(fields_of(message).get("response_metadata"))


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
    for call in fields_of(message).get("tool_calls") or ():
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


# --- a model's answer ----------------------------------------------------------------------


def usage_of(message: Any) -> TokenUsage | None:
    """The tokens that a provider reported with an answer. None where it reported none; zeros on
    both sides are none, since no answer is made of nothing."""
    return _usage(fields_of(message).get("usage_metadata"))


def reported_cost(message: Any) -> Decimal | None:
    """The cost in USD that a provider itself put into the response, as OpenRouter and LiteLLM do.

    It wins over any price list.
    """
    cost = usd_of(_mapping(response_metadata_of(message).get("token_usage")).get("cost"))
    return None if cost is None or cost < 0 else cost


def usd_of(value: Any) -> Decimal | None:
    """A sum of money as somebody else wrote it down; None for what is no finite number."""
    try:
        usd = Decimal("NaN" if isinstance(value, bool) else str(value))
    except InvalidOperation:
        return None
    return usd if usd.is_finite() else None


def served_model(message: Any) -> str | None:
    """The model that a provider says has answered."""
    meta = response_metadata_of(message)
    name = meta.get("model_name") or meta.get("model") or meta.get("model_id")
    return name if isinstance(name, str) and name else None


def flaw_of(message: Any) -> ErrorClass | None:
    """What is wrong with an answer that came back without an exception: ``content_filter``,
    ``truncated``, ``empty`` or ``stream_cut``; None for a whole one."""
    fields, meta = fields_of(message), response_metadata_of(message)
    finish = meta.get("finish_reason") or meta.get("stop_reason") or meta.get("done_reason")
    if isinstance(finish, str):
        finish = finish.lower()
    if finish in ("content_filter", "safety", "refusal"):
        return ErrorClass.CONTENT_FILTER
    if finish in ("length", "max_tokens"):
        return ErrorClass.TRUNCATED
    if not fields.get("content") and not fields.get("tool_calls"):
        refused = _mapping(fields.get("additional_kwargs")).get("refusal") or fields.get("refusal")
        return None if refused else ErrorClass.EMPTY
    if finish is None and "status" not in meta and meta.get("model_provider") == "openai":
        # Every complete chat completion names its finish reason; a stream that ended without
        # one was closed half-way, and the client did not notice.
        return ErrorClass.STREAM_CUT
    return None


def was_cut(message: Any) -> bool:
    """Whether an answer ended early, at its token limit or by a content filter."""
    return flaw_of(message) in CUT


# --- a model's recorded run ----------------------------------------------------------------


def metadata_of(run: Run) -> Mapping[str, Any]:
    return _mapping(_mapping(run.get("extra")).get("metadata"))


def params_of(run: Run) -> Mapping[str, Any]:
    """The parameters that a model was called with."""
    return _mapping(_mapping(run.get("extra")).get("invocation_params"))


def asked_model(run: Run) -> str | None:
    """The model that was asked for, as its provider knows it."""
    params = params_of(run)
    name = metadata_of(run).get("ls_model_name") or params.get("model") or params.get("model_name")
    return str(name) if name else None


def replies_of(outputs: Any) -> Iterator[Mapping[str, Any]]:
    """Fields of the messages in a model run's outputs: LangChain's generations (nested, or flat
    as some exports have them), or the choices of OpenAI's response."""
    outputs = _mapping(outputs)
    for batch in outputs.get("generations") or ():
        for generation in batch if isinstance(batch, list | tuple) else (batch,):
            if fields := fields_of(_mapping(generation).get("message")):
                yield fields
    for choice in outputs.get("choices") or ():
        if fields := fields_of(_mapping(choice).get("message")):
            meta = {
                "finish_reason": choice.get("finish_reason"),
                "model_name": outputs.get("model"),
                "token_usage": outputs.get("usage"),
            }
            yield {**fields, "response_metadata": meta}


def reply_of(run: Run) -> Mapping[str, Any] | None:
    """Fields of the message that a model's run gave, the first of several."""
    return next(replies_of(run.get("outputs")), None)


def run_usage(run: Run) -> TokenUsage | None:
    """Tokens of a model's run: its reply's own count, else the run's; None where nobody counted.

    The reply's comes first: with several choices a provider puts the whole count on each, and the
    run's is their sum.
    """
    counts = (
        (reply_of(run) or {}).get("usage_metadata"),
        _mapping(run.get("outputs")).get("usage_metadata"),
        metadata_of(run).get("usage_metadata"),
    )
    for count in counts:
        if (usage := _usage(count)) is not None:
            return usage
    prompt, completion = run.get("prompt_tokens"), run.get("completion_tokens")
    if prompt is None or completion is None:  # half a count would pass for a low cost
        return None
    return _usage({"input_tokens": prompt, "output_tokens": completion})


def _usage(count: Any) -> TokenUsage | None:
    count = _mapping(count)
    inputs, outputs = (_mapping(count.get(f"{side}_token_details")) for side in ("input", "output"))
    if not count.get("input_tokens") and not count.get("output_tokens"):
        return None
    return TokenUsage(
        input_tokens=int(count.get("input_tokens") or 0),
        output_tokens=int(count.get("output_tokens") or 0),
        cached_input_tokens=int(inputs.get("cache_read") or 0),
        cache_write_tokens=int(inputs.get("cache_creation") or 0),
        reasoning_tokens=int(outputs.get("reasoning") or 0),
    )


def _role(kind: str) -> str:
    """OpenAI's name of a role, from LangChain's type or class."""
    name = kind.removesuffix("Chunk").removesuffix("Message")
    name = kind if name == kind else name.lower()
    return _ROLES.get(name, name)


def _is_text(block: Any) -> bool:
    return isinstance(block, str) or (
        isinstance(block, Mapping) and block.get("type", "text") in ("text", "output_text")
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
