"""Clients that ask a server of chat completions as fast as it answers.

Plain sockets: a client library would take longer than what is measured.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(slots=True)
class Load:
    """What a run has shown. Times in seconds, one entry per request."""

    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    """Until the first piece of an answer's text."""
    errors: int = 0
    took_s: float = 0.0

    @property
    def rate(self) -> float:
        """Good answers per second."""
        return len(self.seconds) / self.took_s


async def measure(
    url: str, connections: int, seconds: float, *, stream: bool, key: str = "none"
) -> Load:
    """Keep ``connections`` requests under way for so long."""
    load = Load()
    began = time.perf_counter()
    until = began + seconds
    await asyncio.gather(*(_client(url, until, load, stream, key) for _ in range(connections)))
    load.took_s = time.perf_counter() - began
    return load


async def _client(url: str, until: float, load: Load, stream: bool, key: str) -> None:
    parts = urlsplit(url)
    asked = {
        "model": "xrouter",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "stream": stream,
    }
    body = json.dumps(asked).encode()
    request = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\n"
        f"content-type: application/json\r\nauthorization: Bearer {key}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    ).encode() + body
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    while time.perf_counter() < until:
        started = time.perf_counter()
        try:
            writer.write(request)
            first, good = await _answer(reader, started)
        except (OSError, asyncio.IncompleteReadError):
            load.errors += 1
            writer.close()
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            continue
        if not good:
            load.errors += 1
            continue
        load.seconds.append(time.perf_counter() - started)
        load.first.append(first)
    writer.close()


async def _answer(reader: asyncio.StreamReader, started: float) -> tuple[float, bool]:
    """Read one response; seconds to its first text, and whether it is a good one."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    good = head.startswith(b"http/1.1 200")
    if b"transfer-encoding: chunked" not in head:
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(size)
        return time.perf_counter() - started, good and b'"choices"' in body
    first, done = 0.0, False
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip() or b"0", 16)
        chunk = await reader.readexactly(size + 2)
        if not size:
            return first, good and done
        if not first and b'"content":"' in chunk.replace(b'"content":""', b"").replace(b": ", b":"):
            first = time.perf_counter() - started
        done = done or b"[DONE]" in chunk
