"""A loopback server that speaks as four providers do, whose models think and call a tool.

What only the model itself may see again holds the word ``secret-of-<provider>``.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from xrouter_lg import ModelCard


def anthropic(body: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_secret-of-anthropic",
        "type": "message",
        "role": "assistant",
        "model": body["model"],
        "content": [
            {"type": "thinking", "thinking": "secret-of-anthropic", "signature": "c2VjcmV0"},
            {"type": "redacted_thinking", "data": "secret-of-anthropic"},
            {"type": "text", "text": "Let me look."},
            {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"at": "sky"}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 5},
    }


def responses(body: dict[str, Any]) -> dict[str, Any]:
    text = {"type": "output_text", "text": "Let me look.", "annotations": []}
    output = [
        {
            "type": "reasoning",
            "id": "rs_secret-of-openai",
            "summary": [{"type": "summary_text", "text": "secret-of-openai"}],
            "encrypted_content": "secret-of-openai",
        },
        {
            "type": "message",
            "id": "msg_secret-of-openai",
            "status": "completed",
            "role": "assistant",
            "content": [text],
        },
        {
            "type": "function_call",
            "id": "fc_secret-of-openai",
            "call_id": "call_1",
            "name": "look",
            "arguments": '{"at": "sky"}',
            "status": "completed",
        },
    ]
    return {
        "id": "resp_secret-of-openai",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": body["model"],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "output": output,
        "usage": {
            "input_tokens": 5,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": 5,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 10,
        },
    }


def gemini(body: dict[str, Any]) -> dict[str, Any]:
    call = {"functionCall": {"name": "look", "args": {"at": "sky"}}, "thoughtSignature": "c2VjcmV0"}
    parts = [
        {"text": "secret-of-google", "thought": True, "thoughtSignature": "c2VjcmV0"},
        {"text": "Let me look."},
        call,
    ]
    return {
        "candidates": [
            {"content": {"role": "model", "parts": parts}, "finishReason": "STOP", "index": 0}
        ],
        "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 5, "totalTokenCount": 10},
        "modelVersion": "gemini-x",
    }


def openrouter(body: dict[str, Any]) -> dict[str, Any]:
    details = [{"type": "reasoning.encrypted", "data": "secret-of-openrouter", "id": "r1"}]
    function = {"name": "look", "arguments": '{"at": "sky"}'}
    message = {
        "role": "assistant",
        "content": "Let me look.",
        "reasoning": "secret-of-openrouter",
        "reasoning_details": details,
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    return {
        "id": "gen-1",
        "system_fingerprint": None,
        "object": "chat.completion",
        "created": 1,
        "model": body["model"],
        "choices": [{"index": 0, "finish_reason": "tool_calls", "message": message}],
        "usage": {"prompt_tokens": 5, "completion_tokens": 5, "total_tokens": 10},
    }


class Thinkers:
    """The server: ``cards`` by provider, and the ``bodies`` that it was sent."""

    def __init__(self, url: str) -> None:
        self.bodies: list[str] = []
        key = "THINKER_KEY"
        self.cards = {
            "anthropic": ModelCard(
                name="claude", model="anthropic:claude-x", base_url=url, api_key_env=key
            ),
            "openai": ModelCard(
                name="gpt",
                model="openai:gpt-x",
                base_url=f"{url}/v1",
                api_key_env=key,
                params={"use_responses_api": True, "use_previous_response_id": False},
            ),
            "google": ModelCard(
                name="gemini", model="google_genai:gemini-x", base_url=url, api_key_env=key
            ),
            "openrouter": ModelCard(
                name="open_router", model="openrouter:x/y", base_url=f"{url}/v1", api_key_env=key
            ),
        }


@contextmanager
def thinkers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Thinkers]:
    monkeypatch.setenv("THINKER_KEY", "not-needed")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["content-length"])).decode()
            told.bodies.append(raw)
            data = json.dumps(_answer(self.path)(json.loads(raw))).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        told = Thinkers(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


def _answer(path: str) -> Any:
    if path.endswith("/messages"):
        return anthropic
    if path.endswith("/responses"):
        return responses
    return gemini if "generateContent" in path else openrouter
