"""A server that answers for slots as vLLM and llama.cpp do, without a model: log probabilities are
a function of the prompt's token ids, so whoever sends other ids gets other numbers."""

from __future__ import annotations

import hashlib
import http.server
import json
import math
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar


def logit(ids: Sequence[int], token: int, seed: int = 0) -> float:
    """A number in [-4, 4) out of prompt and token."""
    digest = hashlib.sha256(json.dumps([seed, list(ids), token]).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 * 8 - 4


@dataclass
class SlotServer:
    """What it serves, what it was asked, and how it misbehaves."""

    names: list[str]
    seed: int = 0
    """Of the weights, so to say."""
    seeds: dict[str, int] = field(default_factory=dict)
    """Of those that are served under another name than the first: adapters."""
    weights: dict[str, int] = field(default_factory=dict)
    """Seed by the folder of an adapter that may be loaded while it runs, as vLLM does it."""
    adapters: list[str] = field(default_factory=list)
    """Files of adapters that llama.cpp chooses among by number; their seeds are their places."""
    key: str | None = None
    lack: set[int] = field(default_factory=set)
    """Tokens that it leaves out of its answers."""
    status: int = 200
    """Other than 200: what it answers completions with."""
    gate: threading.Event = field(default_factory=threading.Event)
    """Completions wait until it is set."""
    asked: list[dict[str, Any]] = field(default_factory=list)
    listed: int = 0
    url: str = ""

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        ids, seed = body["prompt"], self.seeds.get(body["model"], self.seed)
        if chosen := body.get("lora"):
            seed = chosen[0]["id"]
        if path == "/v1/completions":
            choices = body["structured_outputs"]["choice"]
            # A choice's token is known by its place behind the first byte tokens: see the test.
            tokens = [self.tokens[choice] for choice in choices]
        else:
            tokens = [token for token, _ in body["logit_bias"]]
        values = {token: logit(ids, token, seed) for token in tokens}
        mass = math.log(sum(map(math.exp, values.values())))
        shown = {t: value - mass for t, value in values.items() if t not in self.lack}
        if path == "/v1/completions":
            top = {f"token_id:{token}": value for token, value in shown.items()} | {
                "token_id:3": -9999.0
            }
            return {"choices": [{"text": " A", "logprobs": {"top_logprobs": [top]}}]}
        probabilities = [{"id": t, "prob": math.exp(value)} for t, value in shown.items()]
        return {"completion_probabilities": [{"top_probs": probabilities}]}

    def loads(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """What vLLM answers to the loading or unloading of an adapter."""
        name = body["lora_name"]
        if path.endswith("/unload_lora_adapter"):
            if name not in self.seeds:
                return 404, {"error": f"The lora adapter '{name}' cannot be found."}
            self.names.remove(name)
            del self.seeds[name]
        else:
            if body["lora_path"] not in self.weights:
                return 404, {"error": f"No adapter found for '{body['lora_path']}'."}
            self.seeds[name] = self.weights[body["lora_path"]]
            self.names.append(name)
        return 200, "Success"

    tokens: dict[str, int] = field(default_factory=dict)
    """Token id by text, for what is asked by text."""


@contextmanager
def running(script: SlotServer, port: int = 0) -> Iterator[SlotServer]:
    """Serve on 127.0.0.1 until the block ends."""
    script.gate.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path == "/lora-adapters" and self._allowed():
                files = enumerate(script.adapters)
                self._send(200, [{"id": n, "path": file, "scale": 0.0} for n, file in files])
                return
            script.listed += 1
            if self._allowed():
                self._send(200, {"data": [{"id": name} for name in script.names]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self._allowed():
                return
            script.asked.append({"path": self.path, **body})
            script.gate.wait(30)
            if script.status != 200:
                self._send(script.status, {"error": "no"})
            elif "lora_name" in body:
                self._send(*script.loads(self.path, body))
            elif "lora" in body:
                self._send(200, script.answer(self.path, body))
            elif body.get("model") not in script.names:
                self._send(404, {"error": f"no model {body.get('model')}"})
            else:
                self._send(200, script.answer(self.path, body))

        def _allowed(self) -> bool:
            good = script.key is None or self.headers["Authorization"] == f"Bearer {script.key}"
            if not good:
                self._send(401, {"error": "who are you?"})
            return good

        def _send(self, status: int, data: Any) -> None:
            body = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128
        connections: ClassVar[list[socket.socket]] = []

        def process_request(self, request: Any, client_address: Any) -> None:
            self.connections.append(request)
            super().process_request(request, client_address)

    server = Server(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        for connection in server.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
