"""Anthropic's Messages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from xrouter_lg.testing.completion import Completion, FakeRequest, Usage
from xrouter_lg.testing.dialects.base import Dialect
from xrouter_lg.testing.payloads import encode, sse

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_STARTS: dict[str, dict[str, Any]] = {
    "thinking": {"thinking": "", "signature": ""},
    "text": {"text": ""},
}


class AnthropicMessages(Dialect):
    """Content blocks and named events; `input_tokens` without what the cache gave or took."""

    stops = "stop_sequences"
    words: ClassVar[Mapping[str, str]] = {
        "stop": "end_turn",
        "tool_calls": "tool_use",
        "length": "max_tokens",
        "content_filter": "refusal",
    }

    def body(self, completion: Completion, asked: FakeRequest) -> bytes:
        said = completion.said
        content: list[dict[str, Any]] = []
        if said.thoughts:
            content.append({"type": "thinking", "thinking": said.thoughts, "signature": "fake"})
        content += _hosted(completion.usage)
        if said.text or said.refusal:
            content.append({"type": "text", "text": said.text + said.refusal})
        content += [
            {"type": "tool_use", "id": it["id"], "name": it["name"], "input": it["arguments"]}
            for it in said.parsed_calls
        ]
        message = self._message(completion, asked)
        message |= {"content": content, "stop_reason": self.finish(completion)}
        if completion.show_usage:
            message["usage"] = _usage(completion.usage)
        return encode(message)

    def opening(self, completion: Completion, asked: FakeRequest) -> bytes:
        message = self._message(completion, asked)
        if completion.show_usage:
            message["usage"] = _usage(completion.usage) | {"output_tokens": 1}
        events = _event("message_start", message=message)
        for index, block in enumerate(_hosted(completion.usage)):
            events += _event("content_block_start", index=index, content_block=block)
            events += _event("content_block_stop", index=index)
        return events

    def pieces(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        first = len(_hosted(completion.usage))
        index, kind = first - 1, ""
        for piece in completion.pieces:
            said, delta, start = _block(piece)
            events = b""
            if said != kind or "id" in start:
                if index >= first:
                    events += _event("content_block_stop", index=index)
                index, kind = index + 1, said
                block = {"type": kind} | start
                events += _event("content_block_start", index=index, content_block=block)
            yield events + _event("content_block_delta", index=index, delta=delta)
        if index >= first:
            yield _event("content_block_stop", index=index)

    def closing(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        delta = {"stop_reason": self.finish(completion), "stop_sequence": None}
        usage = {"usage": _usage(completion.usage)} if completion.show_usage else {}
        yield _event("message_delta", delta=delta, **usage)
        yield _event("message_stop")

    def error(self, status: int, error: Mapping[str, Any]) -> bytes:
        kind = _ERROR_TYPES.get(status, "api_error")
        return encode({"type": "error", "error": {"type": kind, "message": error["message"]}})

    def error_event(
        self, error: Mapping[str, Any], completion: Completion, asked: FakeRequest
    ) -> bytes:
        told = {"type": "overloaded_error", "message": error["message"]}
        return _event("error", error=told)

    def _message(self, completion: Completion, asked: FakeRequest) -> dict[str, Any]:
        return {
            "id": f"msg_fake_{asked.number}",
            "type": "message",
            "role": "assistant",
            "model": completion.served_model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
        }


def _block(piece: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A token's kind of block, its delta, and what a block that begins with it starts with."""
    if "thought" in piece:
        delta = {"type": "thinking_delta", "thinking": piece["thought"]}
        return "thinking", delta, _STARTS["thinking"]
    if "tool_calls" not in piece:
        text = piece.get("content") or piece.get("refusal")
        return "text", {"type": "text_delta", "text": text}, _STARTS["text"]
    call = piece["tool_calls"][0]
    delta = {"type": "input_json_delta", "partial_json": call["function"]["arguments"]}
    if "id" not in call:
        return "tool_use", delta, {}
    return "tool_use", delta, {"id": call["id"], "name": call["function"]["name"], "input": {}}


def _hosted(usage: Usage) -> list[dict[str, Any]]:
    """The blocks of what the provider's own tools did: each call, and what it gave."""
    blocks: list[dict[str, Any]] = []
    for place in range(usage.searches):
        name, query = f"srvtoolu_{place}", {"query": "fake"}
        blocks += [
            {"type": "server_tool_use", "id": name, "name": "web_search", "input": query},
            {"type": "web_search_tool_result", "tool_use_id": name, "content": []},
        ]
    ran = {"type": "bash_code_execution_result", "stdout": "", "stderr": "", "return_code": 0}
    for place in range(usage.code_runs):
        name, command = f"srvtoolu_code_{place}", {"command": "true"}
        content = {**ran, "content": []}
        blocks += [
            {
                "type": "server_tool_use",
                "id": name,
                "name": "bash_code_execution",
                "input": command,
            },
            {
                "type": "bash_code_execution_tool_result",
                "tool_use_id": name,
                "content": content,
            },
        ]
    return blocks


def _usage(usage: Usage) -> dict[str, Any]:
    five_minutes, hour = usage.cache_write_tokens, usage.cache_write_1h_tokens
    block: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens - five_minutes - hour,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": five_minutes + hour,
        "cache_creation": {
            "ephemeral_5m_input_tokens": five_minutes,
            "ephemeral_1h_input_tokens": hour,
        },
        "output_tokens": usage.completion_tokens,
        "service_tier": "standard",
    }
    if usage.reasoning_tokens:
        block["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    if usage.searches:
        block["server_tool_use"] = {
            "web_search_requests": usage.searches,
            "web_fetch_requests": 0,
        }
    return block


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, event=kind)
