"""Gemini's generateContent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from xrouter_lg.testing.completion import Completion, FakeRequest, Usage
from xrouter_lg.testing.dialects.base import Dialect
from xrouter_lg.testing.payloads import encode, sse

_STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 404: "NOT_FOUND"} | {
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}


class Gemini(Dialect):
    """Candidates made of parts. The finish reason `prompt_blocked` gives no candidate at all."""

    messages = "contents"
    prompt = ("systemInstruction", "contents", "tools")
    limits = ("maxOutputTokens",)
    stops = "stopSequences"
    words: ClassVar[Mapping[str, str]] = {
        "stop": "STOP",
        "tool_calls": "STOP",
        "length": "MAX_TOKENS",
        "content_filter": "SAFETY",
        "error": "OTHER",
    }

    def model(self, path: str, body: Mapping[str, Any]) -> str:
        return path.rpartition("/")[2].partition(":")[0]

    def streamed(self, path: str, body: Mapping[str, Any]) -> bool:
        return path.endswith(":streamGenerateContent")

    def settings(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        return body.get("generationConfig") or {}

    def body(self, completion: Completion, asked: FakeRequest) -> bytes:
        said = completion.said
        parts: list[dict[str, Any]] = []
        if said.thoughts:
            parts.append({"text": said.thoughts, "thought": True})
        if said.text or said.refusal:
            parts.append({"text": said.text + said.refusal})
        return encode(self._response(completion, asked, parts + _calls(completion)))

    def opening(self, completion: Completion, asked: FakeRequest) -> bytes:
        return b""

    def pieces(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        for place, piece in enumerate(completion.pieces, 1):
            if "tool_calls" in piece:
                yield b""  # a call comes whole, with the end
                continue
            text = piece.get("content") or piece.get("refusal") or piece["thought"]
            part = {"text": text, "thought": True} if "thought" in piece else {"text": text}
            yield sse(self._response(completion, asked, [part], sent=place))

    def closing(self, completion: Completion, asked: FakeRequest) -> Iterator[bytes]:
        parts = _calls(completion) or [{"text": ""}]
        yield sse(self._response(completion, asked, parts))

    def error(self, status: int, error: Mapping[str, Any]) -> bytes:
        name = _STATUSES.get(status, "INTERNAL")
        return encode({"error": {"code": status, "message": error["message"], "status": name}})

    def error_event(
        self, error: Mapping[str, Any], completion: Completion, asked: FakeRequest
    ) -> bytes:
        told = {"code": 503, "message": error["message"], "status": "UNAVAILABLE"}
        return sse({"error": told})

    def _response(
        self,
        completion: Completion,
        asked: FakeRequest,
        parts: list[dict[str, Any]],
        *,
        sent: int | None = None,
    ) -> dict[str, Any]:
        """`sent`: the pieces so far, of an answer that is not at its end."""
        candidate: dict[str, Any] = {"index": 0, "content": {"role": "model", "parts": parts}}
        usage = completion.usage
        if sent is not None:
            usage = usage.generated(sent, len(completion.pieces))
        else:
            candidate["finishReason"] = self.finish(completion)
            if usage.searches:
                candidate["groundingMetadata"] = {"webSearchQueries": ["fake"] * usage.searches}
        response: dict[str, Any] = {
            "candidates": [candidate],
            "modelVersion": completion.served_model,
            "responseId": f"fake-{asked.number}",
        }
        if completion.finish_reason == "prompt_blocked":
            response["candidates"] = []
            response["promptFeedback"] = {"blockReason": "SAFETY"}
        if completion.show_usage:
            response["usageMetadata"] = _usage(usage)
        return response


def _calls(completion: Completion) -> list[dict[str, Any]]:
    return [
        {"functionCall": {"id": call["id"], "name": call["name"], "args": call["arguments"]}}
        for call in completion.said.parsed_calls
    ]


def _usage(usage: Usage) -> dict[str, Any]:
    visible = usage.completion_tokens - usage.reasoning_tokens
    prompt = usage.prompt_tokens - usage.tool_prompt_tokens
    block: dict[str, Any] = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": visible,
        "totalTokenCount": usage.prompt_tokens + usage.completion_tokens,
        "promptTokensDetails": _modalities(
            prompt, AUDIO=usage.audio_input_tokens, IMAGE=usage.image_input_tokens
        ),
        "candidatesTokensDetails": _modalities(
            visible, AUDIO=usage.audio_output_tokens, IMAGE=usage.image_output_tokens
        ),
    }
    counts = {
        "thoughtsTokenCount": usage.reasoning_tokens,
        "cachedContentTokenCount": usage.cached_tokens,
        "toolUsePromptTokenCount": usage.tool_prompt_tokens,
    }
    return block | {name: count for name, count in counts.items() if count}


def _modalities(total: int, **counts: int) -> list[dict[str, Any]]:
    counts["TEXT"] = total - sum(counts.values())
    return [
        {"modality": name, "tokenCount": count} for name, count in sorted(counts.items()) if count
    ]
