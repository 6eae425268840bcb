"""A model server as a child process: started on entry, watched until healthy, ended on exit."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import BinaryIO, Self

import httpx

from .errors import ServerStartError

_POLL_S = 0.05
_LOG_TAIL_CHARS = 2500


class ServedProcess(ABC):
    """Starts on entry, stops on exit; a context manager, sync and async.

    Args:
        title: what error messages call it, such as ``vLLM for '/models/base'``.
        log_path: where the server's log goes; default a temporary file, removed after a clean stop.
        start_timeout_s: seconds to load the model and answer the health check.
        stop_grace_s: seconds between asking it to end and killing it.
    """

    def __init__(
        self, title: str, *, log_path: Path | None, start_timeout_s: float, stop_grace_s: float
    ) -> None:
        self.start_timeout_s = start_timeout_s
        self._title, self._stop_grace_s = title, stop_grace_s
        self._log_path = log_path
        self._scratch: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._address: str | None = None

    @abstractmethod
    def _check(self) -> None:
        """Raise what speaks against a start."""

    @abstractmethod
    def _launch(self, scratch: Path, log: BinaryIO) -> subprocess.Popen[bytes]:
        """Start the process, in a session of its own, with an empty folder that it may use."""

    @abstractmethod
    def _find_address(self, scratch: Path) -> str | None:
        """``http://127.0.0.1:PORT`` once it is known where the process listens."""

    @property
    def base_url(self) -> str:
        """``http://127.0.0.1:PORT/v1``, for any OpenAI client.

        Raises:
            RuntimeError: the server is not running.
        """
        if self._address is None:
            raise RuntimeError(f"{self._title} is not running; use it inside 'with' or start() it")
        return f"{self._address}/v1"

    @property
    def pid(self) -> int | None:
        """Process id of the running server, else None."""
        return None if self._process is None else self._process.pid

    @property
    def log_path(self) -> Path | None:
        """The server's log; None before the first start."""
        if self._log_path is not None:
            return self._log_path
        return None if self._scratch is None else self._scratch / "server.log"

    def start(self) -> Self:
        """Start and wait until the server is healthy.

        Raises:
            ServerStartError: it ended or took too long; the message ends with its log.
        """
        if self._process is not None:
            return self
        self._check()
        self._scratch = Path(tempfile.mkdtemp(prefix="xrouter-server-"))
        log_path = self._log_path or self._scratch / "server.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log_path.open("wb") as log:
                self._process = self._launch(self._scratch, log)
            self._wait_until_healthy(self._process, self._scratch, log_path)
        except BaseException:
            self._end_process()
            raise
        return self

    def stop(self) -> None:
        """Terminate, then kill, the server and its children; does nothing when not running."""
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

    def __exit__(self, *error: object) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, *error: object) -> None:
        await asyncio.to_thread(self.stop)

    def _wait_until_healthy(
        self, process: subprocess.Popen[bytes], scratch: Path, log_path: Path
    ) -> None:
        deadline = time.monotonic() + self.start_timeout_s
        problem = f"was not healthy after {self.start_timeout_s:g} s (raise start_timeout_s?)"
        while time.monotonic() < deadline:
            if (status := process.poll()) is not None:
                problem = f"exited with status {status}"
                break
            self._address = self._find_address(scratch)
            if self.is_healthy():
                return
            time.sleep(_POLL_S)
        tail = log_path.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:].strip()
        raise ServerStartError(f"{self._title} {problem}; log {str(log_path)!r} ends with:\n{tail}")

    def _end_process(self) -> None:
        self._address = None
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self._stop_grace_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
