"""A completion as OpenAI's JSON: the whole response, or the chunks of a stream."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any

from xrouter_lg.testing.completion import Completion

DONE = b"data: [DONE]\n\n"


def encode(payload: Any) -> bytes:
    """JSON as compact UTF-8."""
    return json.dumps(payload, separators=(",", ":")).encode()


def sse(payload: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + encode(payload) + b"\n\n"


def error_body(message: str, kind: str, code: str | None, param: str | None = None) -> bytes:
    """OpenAI's error body."""
    return encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def response_body(completion: Completion, number: int, body: Mapping[str, Any]) -> bytes:
    """The response to a request without `stream`."""
    choice: dict[str, Any] = {
        "index": 0,
        "message": _message(completion),
        "logprobs": None,
        "finish_reason": completion.finish_reason,
    }
    if body.get("logprobs"):
        choice["logprobs"] = {
            "content": [
                entry
                for position, piece in enumerate(completion.pieces)
                for entry in _logprobs(completion, position, piece, body)
            ]
        }
    payload = _envelope(completion, number, "chat.completion") | {"choices": [choice]}
    if completion.show_usage:
        payload["usage"] = completion.usage.as_json()
    return encode(payload)


def first_chunk(completion: Completion, number: int) -> bytes:
    """The chunk that opens a stream: the role, and no token."""
    content = None if completion.null_content else ""
    return _chunk(completion, number, {"role": "assistant", "content": content})


def piece_chunks(completion: Completion, number: int, body: Mapping[str, Any]) -> Iterator[bytes]:
    """One chunk per generated token."""
    for position, piece in enumerate(completion.pieces):
        entries = _logprobs(completion, position, piece, body) if body.get("logprobs") else None
        logprobs = None if entries is None else {"content": entries}
        yield _chunk(completion, number, piece, logprobs=logprobs)


def last_chunks(completion: Completion, number: int, body: Mapping[str, Any]) -> Iterator[bytes]:
    """The finish reason, the usage if `stream_options.include_usage` asks for it, `[DONE]`."""
    yield _chunk(completion, number, {}, finish_reason=completion.finish_reason)
    if completion.show_usage and (body.get("stream_options") or {}).get("include_usage"):
        envelope = _envelope(completion, number, "chat.completion.chunk")
        yield sse(envelope | {"choices": [], "usage": completion.usage.as_json()})
    yield DONE


def _chunk(
    completion: Completion,
    number: int,
    delta: Mapping[str, Any],
    *,
    finish_reason: str | None = None,
    logprobs: Mapping[str, Any] | None = None,
) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
    return sse(_envelope(completion, number, "chat.completion.chunk") | {"choices": [choice]})


def _envelope(completion: Completion, number: int, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-fake-{number}",
        "object": kind,
        "created": int(time.time()),
        "model": completion.served_model,
        "system_fingerprint": "fp_fake",
    }


def _message(completion: Completion) -> dict[str, Any]:
    content: list[str] = []
    refusal: list[str] = []
    calls: list[dict[str, Any]] = []
    for piece in completion.pieces:
        if "content" in piece:
            content.append(piece["content"])
        elif "refusal" in piece:
            refusal.append(piece["refusal"])
        else:
            fragment = piece["tool_calls"][0]
            if "id" in fragment:
                call = {key: value for key, value in fragment.items() if key != "index"}
                calls.append(call | {"function": dict(fragment["function"])})
            else:
                calls[-1]["function"]["arguments"] += fragment["function"]["arguments"]
    text = "".join(content)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": None if completion.null_content and not text else text,
        "refusal": "".join(refusal) or None,
    }
    if calls:
        message["tool_calls"] = calls
    return message


def _logprobs(
    completion: Completion, position: int, piece: Mapping[str, Any], body: Mapping[str, Any]
) -> list[dict[str, Any]]:
    if "content" not in piece:
        return []
    token, wanted = piece["content"], body.get("top_logprobs") or 0
    shown = completion.first_logprobs if position == 0 else None
    if shown is None:
        # The token has 0.9, made-up alternatives share the rest by halves.
        shown = {token: math.log(0.9)}
        shown |= {f"alt{rank}": math.log(0.1 / 2**rank) for rank in range(1, wanted)}
    ranked = sorted(shown.items(), key=lambda item: -item[1])[:wanted]
    top = [_entry(name, value) for name, value in ranked]
    # OpenAI's floor for a token that is not among those it ranked.
    return [_entry(token, shown.get(token, -9999.0)) | {"top_logprobs": top}]


def _entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}
