"""Every provider's chat model, pointed at one loopback server that keeps what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from langchain.chat_models import init_chat_model
from langchain_core.language_models import BaseChatModel

from xrouter_lg import ModelCard

Answer = tuple[int, Any] | tuple[int, Any, Mapping[str, str]]
"""Status, JSON (or a text as it is), and further headers."""

PROVIDERS = (
    "openai:gpt-x",
    "anthropic:claude-x",
    "google_genai:gemini-2.5-flash",
    "mistralai:mistral-x",
    "ollama:llama-x",
    "openrouter:vendor/x",
    "deepseek:deepseek-chat",
    "xai:grok-x",
    "perplexity:sonar",
)

_KEYS = ("OPENAI", "ANTHROPIC", "GOOGLE", "MISTRAL", "OPENROUTER", "DEEPSEEK", "XAI", "PPLX")


@dataclass
class Asked:
    """One request: its path and its body."""

    path: str
    body: dict[str, Any]


@dataclass
class Loopback:
    """A server that answers by a function of the request and of its number, from one."""

    url: str
    requests: list[Asked] = field(default_factory=list)

    def settings(self, provider: str) -> dict[str, Any]:
        """What points a provider's class here. Perplexity's takes it from the environment."""
        kind = provider.partition(":")[0]
        if kind == "perplexity":
            return {}
        bare = kind in ("anthropic", "google_genai", "ollama")
        return {"base_url": self.url if bare else f"{self.url}/v1"}

    def by_hand(self, provider: str, **params: Any) -> BaseChatModel:
        """The chat model as an app would make it."""
        model: BaseChatModel = init_chat_model(provider, **self.settings(provider), **params)
        return model

    def card(self, provider: str, **fields: Any) -> ModelCard:
        """A card of the same model."""
        usual = {"price": {"input": 1, "output": 10}, "max_output_tokens": 500}
        fields = {**usual, "capabilities": ["tools", "structured_output"], **fields}
        return ModelCard(name="one", model=provider, **self.settings(provider), **fields)


def keys(monkeypatch: Any, url: str) -> None:
    """Keys for every provider, and an address for the one that has no setting for it."""
    for name in _KEYS:
        monkeypatch.setenv(f"{name}_API_KEY", "not-a-key")
    monkeypatch.setenv("PERPLEXITY_BASE_URL", url)


def plain_answer(path: str, body: Mapping[str, Any], text: str = "Paris.") -> Answer:
    """A whole answer of 100 tokens in and 10 out, in the format that the path speaks."""
    model = body.get("model")
    if path.endswith("/messages"):
        said: dict[str, Any] = {
            "id": "m1",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {"input_tokens": 100, "output_tokens": 10},
        }
    elif "generateContent" in path:
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0}
        count = {"promptTokenCount": 100, "candidatesTokenCount": 10, "totalTokenCount": 110}
        finished = {**candidate, "finishReason": "STOP"}
        said = {
            "candidates": [finished],
            "usageMetadata": count,
            "modelVersion": "gemini-2.5-flash",
        }
    elif path.endswith("/responses"):
        block = {"type": "output_text", "text": text, "annotations": []}
        item = {"type": "message", "id": "i1", "role": "assistant", "status": "completed"}
        said = {
            "id": "r1",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "output": [{**item, "content": [block]}],
            "usage": {
                "input_tokens": 100,
                "input_tokens_details": {"cached_tokens": 0},
                "output_tokens": 10,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": 110,
            },
        }
    elif path.endswith("/api/chat"):
        said = {
            "created_at": "2026-01-01T00:00:00Z",
            "message": {"role": "assistant", "content": text},
            "done": True,
            "done_reason": "stop",
            "prompt_eval_count": 100,
            "eval_count": 10,
        }
    else:
        message = {"role": "assistant", "content": text}
        said = {
            "id": "c1",
            "object": "chat.completion",
            "created": 1,
            "system_fingerprint": "f",
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }
    return 200, {"model": model, **said}


def events(*said: Mapping[str, Any]) -> str:
    """Server-sent events, named by their type where they have one."""
    named = [f"event: {it['type']}\n" if "type" in it else "" for it in said]
    return "".join(
        f"{name}data: {json.dumps(it)}\n\n" for name, it in zip(named, said, strict=True)
    )


@contextmanager
def loopback(
    answer: Callable[[str, dict[str, Any], int], Answer] | None = None,
) -> Iterator[Loopback]:
    """Run the server; without ``answer`` it gives a plain one."""
    counted = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            body = json.loads(raw or b"{}")
            with counted:
                running.requests.append(Asked(self.path, body))
                number = len(running.requests)
            got = (
                plain_answer(self.path, body) if answer is None else answer(self.path, body, number)
            )
            status, said, headers = (*got, {})[:3]
            data = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            kind = "application/json"
            if isinstance(said, str) and said.startswith(("data:", "event:")):
                kind = "text/event-stream"
            for name, value in {"content-type": kind, **headers}.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    running = Loopback(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
