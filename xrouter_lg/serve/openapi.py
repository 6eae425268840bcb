"""What ``/openapi.json`` tells of bodies, which endpoints read by hand to let unknown fields by."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from xrouter_lg.serve.wire.asked import ROUTING_OPTIONS


def _closed(properties: dict[str, Any], *required: str) -> dict[str, Any]:
    """An object with these fields and no other."""
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_MODEL = {"anyOf": [{"enum": ["xrouter", "xrouter:0.3"]}, {"type": "string", "minLength": 1}]}
_CONTENT = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type"],
                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                "additionalProperties": False,
            },
        },
    ]
}
_SPEAKER = {"role": {"enum": ["system", "developer", "user"]}, "content": _CONTENT}
_CALL = {
    "type": "object",
    "required": ["id", "type", "function"],
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "required": ["name", "arguments"],
            "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
        },
    },
}
_MESSAGE = {
    "anyOf": [
        _closed(_SPEAKER, "role", "content"),
        _closed(
            {
                "role": {"const": "assistant"},
                "content": {"anyOf": [_CONTENT, {"type": "null"}]},
                "tool_calls": {"type": "array", "items": _CALL},
            },
            "role",
        ),
        _closed(
            {
                "role": {"const": "tool"},
                "tool_call_id": {"type": "string"},
                "content": _CONTENT,
            },
            *("role", "tool_call_id", "content"),
        ),
    ]
}
_BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "type": "object",
        "required": ["model", "messages"],
        "properties": {
            "model": _MODEL,
            "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
            "stream": {"type": ["boolean", "null"]},
            "n": {"type": ["integer", "null"], "minimum": 1, "maximum": 16},
            "xrouter": _closed({name: {} for name in ROUTING_OPTIONS}),
        },
    },
    "/v1/responses": {
        "type": "object",
        "required": ["model", "input"],
        "properties": {
            "model": _MODEL,
            "input": {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "array",
                        "minItems": 1,
                        "items": _closed(_SPEAKER, "role", "content"),
                    },
                ]
            },
            "stream": {"type": ["boolean", "null"]},
        },
    },
    "/v1/xrouter/feedback": {
        "type": "object",
        "required": ["trace_id", "key"],
        "properties": {
            "trace_id": {"type": "string", "minLength": 1},
            "key": {"type": "string", "minLength": 1},
            "score": {"type": ["number", "boolean", "null"]},
            "comment": {"type": ["string", "null"]},
        },
    },
}
_REFUSALS = {
    "400": "the request is wrong",
    "401": "no valid key",
    "404": "no such model",
    "408": "the body took too long",
    "409": "the server keeps no traces",
    "413": "the body is too large",
    "429": "too many requests, or the budget is used up",
    "431": "the headers are too large",
    "500": "a mistake of the server",
    "502": "no worker could answer",
    "503": "not ready",
    "504": "no worker answered in time",
}


def described(app: FastAPI) -> dict[str, Any]:
    """The document, made once."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, routes=app.routes)
        refusals = {
            status: {
                "description": meaning,
                "content": {"application/json": {"schema": _ERROR}},
            }
            for status, meaning in _REFUSALS.items()
        }
        for path, methods in document["paths"].items():
            for operation in methods.values():
                operation["responses"] = {**_whole(path), **refusals}
                if path == "/readyz":
                    operation["responses"]["503"] = _whole(path)["200"]
                if path in _BODIES:
                    content = {"application/json": {"schema": _BODIES[path]}}
                    operation["requestBody"] = {"required": True, "content": content}
        app.openapi_schema = document
    return app.openapi_schema


def _whole(path: str) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if path == "/metrics":
        content = {"text/plain": {"schema": {"type": "string"}}}
    elif path in ("/v1/chat/completions", "/v1/responses"):
        content["text/event-stream"] = {"schema": {"type": "string"}}
    return {"200": {"description": "as asked", "content": content}}
