"""One GGUF model behind llama.cpp's OpenAI-compatible server, in its own process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

from .errors import ServerStartError

_POLL_S = 0.05
_STOP_GRACE_S = 5.0
_LOG_TAIL_CHARS = 1500
_CHILD = Path(__file__).with_name("server_process.py")


class LlamaCppServer:
    """Starts on entry, stops on exit; a context manager, sync and async.

    The server listens on 127.0.0.1 only. Several may run at once: threads sleep between tokens
    instead of spinning, so an idle server costs memory but no core.

    Args:
        weights_path: a GGUF file.
        name: the model id the server reports and requests name.
        n_ctx: tokens of context for each request, prompt and answer together.
        n_parallel: requests served at once; each has its own context.
        threads: CPU threads that generate tokens; default half the cores. Threads wait for each
            other, spinning, at every layer: one that shares its core with another program holds
            up all of them (measured: 40 tokens/s fall to 3).
        batch_threads: CPU threads that read prompts; default all cores.
        port: a fixed port, or 0 for a free one.
        chat_template: a Jinja file instead of the template inside the weights.
        adapter: a GGUF file with a LoRA adapter for the weights.
        exact: keys, values and attention in float32, for log probabilities that equal those of
            transformers (to 2e-5 instead of 2e-2) where the weights are float32 too.
        log_path: where llama.cpp's log goes; default a temporary file, removed after a clean stop.
        start_timeout_s: seconds to load the weights and answer the health check.

    Raises:
        ServerStartError: on entry, when xllamacpp or the file is missing, loading fails or takes
            too long; the message ends with the log.
    """

    def __init__(
        self,
        weights_path: Path,
        *,
        name: str,
        n_ctx: int = 4096,
        n_parallel: int = 2,
        threads: int | None = None,
        batch_threads: int | None = None,
        port: int = 0,
        chat_template: Path | None = None,
        adapter: Path | None = None,
        exact: bool = False,
        log_path: Path | None = None,
        start_timeout_s: float = 120.0,
    ) -> None:
        for label, value in (
            ("n_ctx", n_ctx),
            ("n_parallel", n_parallel),
            ("threads", threads),
            ("batch_threads", batch_threads),
        ):
            if value is not None and value < 1:
                raise ValueError(f"{label} of server {name!r} must be at least 1, not {value!r}")
        self.weights_path = Path(weights_path)
        self.name = name
        self.n_ctx = n_ctx
        self.n_parallel = n_parallel
        self.threads = threads or max(1, (os.cpu_count() or 1) // 2)
        self.batch_threads = batch_threads or os.cpu_count() or 1
        self.start_timeout_s = start_timeout_s
        self.startup_s: float | None = None
        """Seconds the last start took."""
        self._port = port
        self._chat_template = chat_template
        self._adapter = adapter
        self._exact = exact
        self._log_path = log_path
        self._scratch: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._address: str | None = None

    @property
    def base_url(self) -> str:
        """``http://127.0.0.1:PORT/v1``, for any OpenAI client.

        Raises:
            RuntimeError: the server is not running.
        """
        if self._address is None:
            raise RuntimeError(
                f"server {self.name!r} is not running; use it inside 'with' or call start()"
            )
        return f"{self._address}/v1"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, else None."""
        return None if self._process is None else self._process.pid

    @property
    def log_path(self) -> Path | None:
        """llama.cpp's log; None before the first start."""
        if self._log_path is not None:
            return self._log_path
        return None if self._scratch is None else self._scratch / "server.log"

    def start(self) -> Self:
        """Start and wait until the server is healthy; see the class for errors."""
        if self._process is not None:
            return self
        if not self.weights_path.is_file():
            raise ServerStartError(
                f"no weights for server {self.name!r} at {str(self.weights_path)!r}; fetch them "
                "with 'python -m integrations.llama_cpp fetch'"
            )
        if self._adapter is not None and not self._adapter.is_file():
            raise ServerStartError(
                f"no adapter for server {self.name!r} at {str(self._adapter)!r}; write it with "
                "'python -m integrations.llama_cpp.export_gguf --adapter'"
            )
        if importlib.util.find_spec("xllamacpp") is None:
            raise ServerStartError(
                "local models need xllamacpp, which is not installed in "
                f"{sys.executable}: pip install 'xrouter-lg[local]'"
            )
        started = time.monotonic()
        self._scratch = Path(tempfile.mkdtemp(prefix="xrouter-llama-"))
        ready_path = self._scratch / "ready"
        try:
            self._launch(ready_path)
            self._address = self._wait_until_ready(ready_path, started + self.start_timeout_s)
        except BaseException:
            self._end_process()
            raise
        self.startup_s = time.monotonic() - started
        return self

    def stop(self) -> None:
        """Terminate, then kill after five seconds; does nothing when not running."""
        self._end_process()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def is_healthy(self) -> bool:
        """Whether the server answers its health check now."""
        if self._address is None:
            return False
        try:
            # trust_env=False: a proxy of the environment must not see loopback requests.
            answer = httpx.get(f"{self._address}/health", timeout=5.0, trust_env=False)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.stop)

    def _launch(self, ready_path: Path) -> None:
        settings = {
            "weights_path": str(self.weights_path.resolve()),
            "name": self.name,
            "n_ctx": self.n_ctx,
            "n_parallel": self.n_parallel,
            "threads": self.threads,
            "batch_threads": self.batch_threads,
            "port": self._port,
            "prompt_cache_mib": 256,
            "chat_template": None
            if self._chat_template is None
            else self._chat_template.read_text(encoding="utf-8"),
            "adapter": None if self._adapter is None else str(self._adapter.resolve()),
            "exact": self._exact,
            "ready_path": str(ready_path),
        }
        log_path = self.log_path
        assert log_path is not None
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C reaches only this process, which then stops the server in order.
                start_new_session=True,
            )
        assert self._process.stdin is not None
        # Broken when it died already: the wait that follows reports its log.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(settings).encode() + b"\n")
            self._process.stdin.flush()

    def _wait_until_ready(self, ready_path: Path, deadline: float) -> str:
        assert self._process is not None
        while time.monotonic() < deadline:
            if (status := self._process.poll()) is not None:
                raise self._start_error(f"exited with status {status}")
            if ready_path.exists():
                self._address = ready_path.read_text(encoding="utf-8")
                if self.is_healthy():
                    return self._address
            time.sleep(_POLL_S)
        raise self._start_error(
            f"was not healthy after {self.start_timeout_s:g} s (raise start_timeout_s?)"
        )

    def _start_error(self, what: str) -> ServerStartError:
        log_path = self.log_path
        assert log_path is not None
        tail = log_path.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:].strip()
        return ServerStartError(
            f"llama.cpp server {self.name!r} for {str(self.weights_path)!r} {what}; "
            f"log {str(log_path)!r} ends with:\n{tail}"
        )

    def _end_process(self) -> None:
        self._address = None
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
