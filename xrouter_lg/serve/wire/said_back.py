"""From a worker's message to OpenAI's words: the choice, its chunks, the usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from langchain_core.messages import AIMessage, AIMessageChunk, ToolCall
from langchain_core.messages.ai import UsageMetadata, add_usage

from xrouter_lg.errors import ErrorClass
from xrouter_lg.said import RAW_USAGE_KEY, flaw_of, served_model, usage_of
from xrouter_lg.tracing.runs.extract import RECORD_KEY

_WORDS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
_BESIDE = ("refusal", "reasoning_content", "annotations", "audio", "function_call")
"""What a message of OpenAI's dialect may have beside text and calls."""
_SHOWN = ("route", "reason", "policy", "policy_version", "cost_usd", "cost_weight", "fallbacks")

Frame = dict[str, Any]


def message_of(message: AIMessage) -> dict[str, Any]:
    """The message of a choice."""
    calls = tool_calls_of(message)
    found: dict[str, Any] = {
        "role": "assistant",
        "content": message.text or (None if calls else ""),
        "refusal": None,
        **_beside(message),
    }
    if calls:
        found["tool_calls"] = calls
    return found


def tool_calls_of(message: AIMessage) -> list[dict[str, Any]]:
    """The calls, in OpenAI's form; arguments as the model wrote them where that is kept."""
    if raw := message.additional_kwargs.get("tool_calls"):
        return list(raw)
    return [
        {
            "id": call["id"],
            "type": "function",
            "function": {"name": call["name"], "arguments": orjson.dumps(call["args"]).decode()},
        }
        for call in message.tool_calls
    ]


def _beside(message: AIMessage) -> dict[str, Any]:
    kept = {n: v for n in _BESIDE if (v := message.additional_kwargs.get(n)) is not None}
    if "reasoning_content" not in kept and isinstance(message.content, list):
        thoughts = "".join(
            str(block.get("thinking") or "")
            for block in message.content
            if isinstance(block, Mapping) and block.get("type") == "thinking"
        )
        if thoughts:
            kept["reasoning_content"] = thoughts
    return kept


def finish_of(message: AIMessage) -> str:
    """How it ended: the worker's own word where it is one of OpenAI's."""
    word = message.response_metadata.get("finish_reason")
    if word in _WORDS:
        return str(word)
    flaw = flaw_of(message)
    if flaw is ErrorClass.CONTENT_FILTER:
        return "content_filter"
    if flaw is ErrorClass.TRUNCATED:
        return "length"
    return "tool_calls" if message.tool_calls else "stop"


def usage_block(message: AIMessage) -> dict[str, Any] | None:
    """OpenAI's ``usage``, the worker's own where it speaks OpenAI; None where it told none."""
    raw = message.response_metadata.get("token_usage")
    if isinstance(raw, Mapping) and "prompt_tokens" in raw:
        return {name: value for name, value in raw.items() if value is not None}
    usage = usage_of(message)
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_input_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def summed(blocks: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The usage of all choices together; None as soon as one is unknown."""
    total: dict[str, Any] = {}
    for block in blocks:
        if block is None:
            return None
        for name, value in block.items():
            if isinstance(value, Mapping):
                total[name] = summed([total.get(name, {}), dict(value)])
            elif isinstance(value, int | float) and not isinstance(value, bool):
                total[name] = total.get(name, 0) + value
    return total


def record_of(message: AIMessage) -> Mapping[str, Any]:
    """The route record, or what a chunk has of it."""
    found: Mapping[str, Any] = message.response_metadata.get(RECORD_KEY) or {}
    return found


def shown_record(record: Mapping[str, Any], trace_id: str) -> dict[str, Any]:
    """What a client sees of a record."""
    found = {name: record.get(name) for name in _SHOWN}
    return {**found, "trace_id": trace_id}


def completion(messages: list[AIMessage], trace_ids: list[str], *, created: int) -> dict[str, Any]:
    """A whole chat completion: one message a choice."""
    first = messages[0]
    shown = [shown_record(record_of(m), t) for m, t in zip(messages, trace_ids, strict=True)]
    body: dict[str, Any] = {
        "id": completion_id(trace_ids[0]),
        "object": "chat.completion",
        "created": created,
        "model": served_model(first) or shown[0]["route"],
        "choices": [
            {
                "index": index,
                "message": message_of(message),
                "logprobs": message.response_metadata.get("logprobs"),
                "finish_reason": finish_of(message),
            }
            for index, message in enumerate(messages)
        ],
    }
    if (usage := summed([usage_block(message) for message in messages])) is not None:
        body["usage"] = usage
    if (fingerprint := first.response_metadata.get("system_fingerprint")) is not None:
        body["system_fingerprint"] = fingerprint
    return {**body, "xrouter": shown[0] if len(shown) == 1 else shown}


def completion_id(trace_id: str) -> str:
    """Feedback takes it for the trace's own id: clients show it where they show no headers."""
    return f"chatcmpl-{trace_id}"


class ChoiceStream:
    """One choice of a stream: chunks in, deltas out. Usage, ending and record are gathered."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.route: str | None = None
        self.record: dict[str, Any] = {}
        self.model: str | None = None
        self._usage: UsageMetadata | None = None
        self._metadata: dict[str, Any] = {}
        self._calls: dict[Any, int] = {}
        self._began = False

    def frames(self, chunk: AIMessageChunk) -> list[Frame]:
        """The choices that a chunk becomes; none where it says nothing."""
        metadata = chunk.response_metadata
        if metadata:
            self._note(chunk, metadata)
        if chunk.usage_metadata:
            self._usage = add_usage(self._usage, chunk.usage_metadata)
        delta: dict[str, Any] = _beside(chunk)
        if text := chunk.text:
            delta["content"] = str(text)
        if chunk.tool_call_chunks:
            delta["tool_calls"] = [self._call(call) for call in chunk.tool_call_chunks]
        found: list[Frame] = []
        if not self._began:
            self._began = True
            found.append(self._choice({"role": "assistant", "content": ""}))
        logprobs = metadata.get("logprobs")
        if delta or logprobs:
            found.append(self._choice(delta, logprobs=logprobs))
        return found

    def last(self) -> Frame:
        """The choice that ends it."""
        return self._choice({}, finish_reason=finish_of(self._whole()))

    def usage(self) -> dict[str, Any] | None:
        return usage_block(self._whole())

    def _whole(self) -> AIMessage:
        """As much of the message as endings and usage are read from."""
        called = ToolCall(name="called", args={}, id=None)
        calls = [called] if self._calls else []
        return AIMessage(
            "said",
            tool_calls=calls,
            response_metadata=self._metadata,
            usage_metadata=self._usage,
        )

    def _note(self, chunk: AIMessageChunk, metadata: dict[str, Any]) -> None:
        part = record_of(chunk)
        if part:
            self.record.update(part)
            self.route = self.record.get("route") or self.route
        if self.model is None:
            self.model = served_model(chunk)
        for name, value in metadata.items():
            if name == RAW_USAGE_KEY:  # every chunk may tell what has been used so far
                self._metadata[name] = [*self._metadata.get(name, ()), *value]
            elif name not in (RECORD_KEY, "logprobs") and value is not None:
                self._metadata[name] = value

    def _call(self, call: Mapping[str, Any]) -> dict[str, Any]:
        """Providers count blocks, or nothing; OpenAI counts calls from 0."""
        given = call.get("index")
        key = (call.get("id") or len(self._calls)) if given is None else given
        index = self._calls.setdefault(key, len(self._calls))
        function: dict[str, Any] = {"arguments": call.get("args") or ""}
        found: dict[str, Any] = {"index": index, "function": function}
        if call.get("name"):
            function["name"] = call["name"]
            found |= {"id": call.get("id"), "type": "function"}
        return found

    def _choice(
        self, delta: Mapping[str, Any], *, logprobs: Any = None, finish_reason: str | None = None
    ) -> Frame:
        return {
            "index": self.index,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
