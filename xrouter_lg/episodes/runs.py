"""What a recorded run says: messages, answer, tokens, model, tools.

Runs are plain dicts in the trace store's layout
(:func:`xrouter_lg.tracing.exchange.importing.plain_run`). Messages come as LangChain serialises
them, as role and content, or as objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from xrouter_lg.tracing.record.facts import PROMPTS_KEY
from xrouter_lg.tracing.record.redact import MASK
from xrouter_lg.types import Usage

Run = Mapping[str, Any]
Message = dict[str, Any]

_ROLES = {
    "human": "user",
    "HumanMessageChunk": "user",
    "ai": "assistant",
    "AIMessageChunk": "assistant",
    "SystemMessageChunk": "system",
    "ToolMessageChunk": "tool",
}
_TOOL_OPTIONS = ("tool_choice", "parallel_tool_calls")
_HASH = re.compile(r"hashed:[0-9a-f]{32}:\d+\Z")
# Their content stands in ``tool_calls``, or is the model's own scratch paper.
_BLOCKS_LEFT_OUT = frozenset({"tool_use", "tool_call", "function_call", "thinking", "reasoning"})


def metadata_of(run: Run) -> Mapping[str, Any]:
    found = (run.get("extra") or {}).get("metadata")
    return found if isinstance(found, Mapping) else {}


def ancestors_of(run: Run) -> list[str]:
    """Ids of the runs above, the root first: the dotted order spells them out."""
    return [step[-36:] for step in str(run.get("dotted_order") or "").split(".")[:-1]]


def model_of(run: Run) -> str:
    """The model that was asked for, as its provider knows it."""
    params = _params(run)
    said = metadata_of(run).get("ls_model_name") or params.get("model") or params.get("model_name")
    return str(said or run.get("name"))


def tools_of(run: Run) -> tuple[tuple[dict[str, Any], ...], dict[str, Any]]:
    """The tools that were bound, as the model got them, and how (``tool_choice`` ...)."""
    params = _params(run)
    tools = params.get("tools")
    if not isinstance(tools, list | tuple) or not tools:
        return (), {}
    options = {name: params[name] for name in _TOOL_OPTIONS if params.get(name) is not None}
    return tuple(dict(tool) for tool in tools if isinstance(tool, Mapping)), options


def _params(run: Run) -> Mapping[str, Any]:
    found = (run.get("extra") or {}).get("invocation_params")
    return found if isinstance(found, Mapping) else {}


# --- messages ------------------------------------------------------------------------------


def model_messages(run: Run) -> tuple[Message, ...]:
    """What a chat model was asked. LangChain wraps the messages of one call in a batch of one."""
    messages = (run.get("inputs") or {}).get("messages")
    if isinstance(messages, Sequence) and messages and isinstance(messages[0], list | tuple):
        messages = messages[0]
    return plain_messages(messages)


def plain_messages(values: Any) -> tuple[Message, ...]:
    """Messages of any recorded form as ``role`` and ``content``, with ``tool_calls`` (name, args,
    id), ``tool_call_id``, ``name`` and a tool's ``status`` where they say something."""
    if not isinstance(values, list | tuple):
        return ()
    found = []
    for value in values:
        fields = unwrapped(value)
        kind = fields.get("type") or fields.get("role")
        if not isinstance(kind, str) or "content" not in fields:
            continue
        content = fields["content"]
        plain: Message = {
            "role": _ROLES.get(kind, kind),
            "content": "" if content is None else content,
        }
        if calls := tool_calls_of(fields):
            plain["tool_calls"] = calls
        plain |= {name: fields[name] for name in ("tool_call_id", "name") if fields.get(name)}
        if fields.get("status") == "error":
            plain["status"] = "error"
        found.append(plain)
    return tuple(found)


def unwrapped(message: Any) -> Mapping[str, Any]:
    """A message's fields; LangChain's serialised form has them under ``kwargs``."""
    if hasattr(message, "model_dump"):
        dumped: dict[str, Any] = message.model_dump()
        return dumped
    if not isinstance(message, Mapping):
        return {}
    kwargs = message.get("kwargs")
    return kwargs if isinstance(kwargs, Mapping) else message


def tool_calls_of(fields: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A message's tool calls as name, args and id, from LangChain's form or OpenAI's."""
    found = []
    for call in fields.get("tool_calls") or ():
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


def text_of(content: Any) -> str:
    """The text of a message's content; other blocks leave none."""
    if isinstance(content, str):
        return content
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


def _is_text(block: Any) -> bool:
    return isinstance(block, str) or (
        isinstance(block, Mapping) and block.get("type", "text") in ("text", "output_text")
    )


def answer_of(message: Mapping[str, Any] | None) -> str | None:
    """What a verifier judges of an answer: its text; of one that only calls tools, the calls as
    JSON. None without a message."""
    if not message:
        return None
    text = text_of(message.get("content"))
    calls = tool_calls_of(message)
    if text or not calls:
        return text
    said = [{"name": call["name"], "args": call["args"]} for call in calls]
    return json.dumps(said, ensure_ascii=False, default=str)


def last_answer(outputs: Any, key: str = "messages") -> str | None:
    """The answer in the last message among a node's or graph's outputs; None without one."""
    update = outputs if isinstance(outputs, Mapping) else {}
    for name in ("output", "update"):  # how tracers wrap what is no dict, and a Command's part
        inner = update.get(name)
        if isinstance(inner, Mapping):
            update = inner
    values = update.get(key)
    if isinstance(values, list | tuple):
        values = values[-1] if values else None
    fields = unwrapped(values)
    return answer_of(fields) if "content" in fields else None


# --- a model's reply -----------------------------------------------------------------------


def reply_of(run: Run) -> Mapping[str, Any] | None:
    """The message that a model's run gave: LangChain's first generation, or OpenAI's choice."""
    outputs = run.get("outputs") or {}
    try:
        return unwrapped(outputs["generations"][0][0]["message"]) or None
    except (KeyError, IndexError, TypeError):
        pass
    try:
        choice = outputs["choices"][0]
        reason = {"finish_reason": choice.get("finish_reason"), "model_name": outputs.get("model")}
        return {**choice["message"], "response_metadata": reason}
    except (KeyError, IndexError, TypeError, AttributeError):
        return None


def usage_of(run: Run, reply: Mapping[str, Any] | None) -> dict[str, int] | None:
    """Tokens of a call: the reply's own count, else the run's; None where nobody counted."""
    outputs = run.get("outputs") or {}
    said = (reply or {}).get("usage_metadata") or outputs.get("usage_metadata")
    if not isinstance(said, Mapping):
        said = metadata_of(run).get("usage_metadata")
    if isinstance(said, Mapping) and (said.get("input_tokens") or said.get("output_tokens")):
        inputs, outs = (said.get(f"{kind}_token_details") or {} for kind in ("input", "output"))
        return Usage(
            input_tokens=_count(said.get("input_tokens")),
            output_tokens=_count(said.get("output_tokens")),
            cached_input_tokens=_count(inputs.get("cache_read")),
            cache_write_tokens=_count(inputs.get("cache_creation")),
            reasoning_tokens=_count(outs.get("reasoning")),
        ).to_dict()
    prompt, completion = run.get("prompt_tokens"), run.get("completion_tokens")
    if prompt or completion:
        return Usage(_count(prompt), _count(completion)).to_dict()
    return None


def reported_usd(reply: Mapping[str, Any] | None) -> Decimal | None:
    """What the provider itself said that the call cost; it wins over any price list."""
    usage = _response_metadata(reply).get("token_usage")
    value = usage.get("cost") if isinstance(usage, Mapping) else None
    if value is None or isinstance(value, bool):
        return None
    try:
        cost = Decimal(str(value))
    except InvalidOperation:
        return None
    return cost if cost.is_finite() and cost >= 0 else None


def served_model(reply: Mapping[str, Any] | None) -> str | None:
    name = _response_metadata(reply).get("model_name") or _response_metadata(reply).get("model")
    return None if name is None else str(name)


def was_cut(reply: Mapping[str, Any] | None) -> bool:
    """Whether the answer ended at its token limit."""
    said = _response_metadata(reply)
    reason = said.get("finish_reason") or said.get("stop_reason") or said.get("done_reason")
    return str(reason).lower() in ("length", "max_tokens")


def _response_metadata(reply: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found = (reply or {}).get("response_metadata")
    return found if isinstance(found, Mapping) else {}


def _count(value: Any) -> int:
    return int(value or 0)


# --- what was kept from us -----------------------------------------------------------------


def is_hashed(runs: Sequence[Run], messages: Sequence[Message] = ()) -> bool:
    """Whether texts were replaced by digests when this was recorded."""
    if any(metadata_of(run).get(PROMPTS_KEY) == "hashed" for run in runs):
        return True
    return any(_HASH.match(text_of(message["content"])) for message in messages)


def is_redacted(run: Run, messages: Sequence[Message], answer: str | None) -> bool:
    """Whether redaction left nothing of the question or of the answer. A masked name in a whole
    sentence still trains."""
    for side in ("inputs", "outputs"):
        if "redaction_failed" in (run.get(side) or {}):
            return True
    asked = [text_of(m["content"]) for m in messages if m["role"] == "user"][-1:]
    return any(_all_masked(text) for text in [*asked, answer or ""])


def _all_masked(text: str) -> bool:
    return MASK in text and not re.search(r"\w", text.replace(MASK, ""))
