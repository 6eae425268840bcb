"""One GGUF model behind llama.cpp's OpenAI-compatible server, in its own process."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from integrations.errors import ServerStartError
from integrations.served_process import ServedProcess
from xrouter_lg.errors import MissingExtraError

_CHILD = Path(__file__).with_name("server_process.py")


class LlamaCppServer(ServedProcess):
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
        adapters: GGUF files with LoRA adapters for the weights. One alone is in force for every
            request; of several, none is, but those that a request names (``lora``).
        exact: keys, values and attention in float32, for log probabilities that equal those of
            transformers (to 2e-5 instead of 2e-2) where the weights are float32 too.
        log_path: where llama.cpp's log goes; default a temporary file, removed after a clean stop.
        start_timeout_s: seconds to load the weights and answer the health check.

    Raises:
        MissingExtraError: on entry, when xllamacpp is not installed.
        ServerStartError: on entry, when the file is missing, loading fails or takes too long; the
            message ends with the log.
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
        adapters: Sequence[Path] = (),
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
        super().__init__(
            f"llama.cpp server {name!r} for {str(weights_path)!r}",
            log_path=log_path,
            start_timeout_s=start_timeout_s,
            stop_grace_s=5.0,
        )
        self.weights_path = Path(weights_path)
        self.name = name
        self.n_ctx = n_ctx
        self.n_parallel = n_parallel
        self.threads = threads or max(1, (os.cpu_count() or 1) // 2)
        self.batch_threads = batch_threads or os.cpu_count() or 1
        self._port = port
        self._chat_template = chat_template
        self._adapters = tuple(adapters)
        self._exact = exact

    def _check(self) -> None:
        if not self.weights_path.is_file():
            raise ServerStartError(
                f"no weights for server {self.name!r} at {str(self.weights_path)!r}; fetch them "
                "with 'python -m integrations.llama_cpp fetch'"
            )
        for adapter in self._adapters:
            if not adapter.is_file():
                raise ServerStartError(
                    f"no adapter for server {self.name!r} at {str(adapter)!r}; write it with "
                    "'python -m integrations.llama_cpp.export_gguf --adapter'"
                )
        if importlib.util.find_spec("xllamacpp") is None:
            raise MissingExtraError("xllamacpp", "llama-cpp", f"llama.cpp server {self.name!r}")

    def _launch(self, scratch: Path, log: BinaryIO) -> subprocess.Popen[bytes]:
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
            "adapters": [str(adapter.resolve()) for adapter in self._adapters],
            "exact": self._exact,
            "ready_path": str(scratch / "ready"),
        }
        process = subprocess.Popen(
            [sys.executable, str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # Ctrl-C reaches only this process, which then stops the server in order.
            start_new_session=True,
        )
        assert process.stdin is not None
        # Broken when it died already: the wait that follows reports its log.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
        return process

    def _find_address(self, scratch: Path) -> str | None:
        ready = scratch / "ready"
        return ready.read_text(encoding="utf-8") if ready.exists() else None
