"""Ollama's /api/chat: a line of JSON per token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xrouter_lg.testing.completion import Completion, FakeRequest
from xrouter_lg.testing.dialects.base import Dialect
from xrouter_lg.testing.payloads import encode


class OllamaChat(Dialect):
    """Streams unless told otherwise; limits and stops stand in `options`."""

    media_type = "application/x-ndjson"
    limits = ("num_predict",)

    def streamed(self, path: str, body: Mapping[str, Any]) -> bool:
        return body.get("stream") is not False

    def settings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return body.get("options") or {}

    def finish(self, completion: Completion) -> str:
        return "stop" if completion.finish_reason == "tool_calls" else completion.finish_reason

    def body(self, completion: Completion, asked: FakeRequest) -> bytes:
        said = completion.said
        message: dict[str, Any] = {"content": said.text + said.refusal, **_calls(completion)}
        if said.thoughts:
            message["thinking"] = said.thoughts
        return self._line(completion, message, last=True)

    def opening(self, completion: Completion, asked: FakeRequest) -> bytes:
        return b""

    def pieces(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        for piece in completion.pieces:
            if "tool_calls" in piece:
                yield b""  # a call comes whole, with the end
            elif "thought" in piece:
                message = {"content": "", "thinking": piece["thought"]}
                yield self._line(completion, message)
            else:
                text = piece.get("content") or piece.get("refusal")
                yield self._line(completion, {"content": text})

    def closing(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        yield self._line(completion, {"content": "", **_calls(completion)}, last=True)

    def error(self, status: int, error: Mapping[str, Any]) -> bytes:
        return encode({"error": error["message"]})

    def error_event(
        self, error: Mapping[str, Any], completion: Completion, asked: FakeRequest
    ) -> bytes:
        return self.error(500, error) + b"\n"

    def _line(
        self, completion: Completion, message: Mapping[str, Any], *, last: bool = False
    ) -> bytes:
        line: dict[str, Any] = {
            "model": completion.served_model,
            "created_at": "2026-01-01T00:00:00Z",
            "message": {"role": "assistant", **message},
            "done": last,
        }
        if last:
            line |= {"done_reason": self.finish(completion), "total_duration": 1}
        if last and completion.show_usage:
            usage = completion.usage
            line |= {
                "prompt_eval_count": usage.prompt_tokens,
                "eval_count": usage.completion_tokens,
            }
        return encode(line) + b"\n"


def _calls(completion: Completion) -> dict[str, Any]:
    calls = completion.said.parsed_calls
    if not calls:
        return {}
    return {
        "tool_calls": [
            {"function": {"name": call["name"], "arguments": call["arguments"]}} for call in calls
        ]
    }
