"""JSON as a model API sends it."""

from __future__ import annotations

import json
from typing import Any


def encode(payload: Any) -> bytes:
    """JSON as compact UTF-8."""
    return json.dumps(payload, separators=(",", ":")).encode()


def sse(payload: Any, event: str | None = None) -> bytes:
    """One server-sent event."""
    name = b"" if event is None else b"event: " + event.encode() + b"\n"
    return name + b"data: " + encode(payload) + b"\n\n"


def error_body(message: str, kind: str, code: str | None, param: str | None = None) -> bytes:
    """OpenAI's error body."""
    return encode({"error": {"message": message, "type": kind, "param": param, "code": code}})
