"""One vLLM server for router models: its base or a merged checkpoint, adapters beside it."""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Literal

from integrations.errors import ServerStartError, VllmMissingError
from integrations.served_process import ServedProcess

PYTHON_VARIABLE = "XROUTER_VLLM_PYTHON"
"""Environment variable with the interpreter of the environment that vLLM is installed in."""

_SUPERVISE = Path(__file__).with_name("supervise.py")


class VllmServer(ServedProcess):
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
        max_lora_rank: largest rank of an adapter; 0 serves none.
        max_adapters: adapters in use at once; more can be loaded, and are swapped in.
        threads: CPU threads; default all cores.
        port: a fixed port, or 0 for a free one.
        api_key: the key that requests must carry; made up unless given.
        options: further options of vLLM's server, such as ``{"gpu-memory-utilization": "0.3"}``.
        log_path: where vLLM's log goes; default a temporary file, removed after a clean stop.
        start_timeout_s: seconds to load the model and answer the health check.

    Raises:
        VllmMissingError: on entry, when there is no interpreter with vLLM.
        ServerStartError: on entry, when the model is missing, loading fails or takes too long; the
            message ends with the log.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str = "base",
        python: str | Path | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        max_lora_rank: int = 16,
        max_adapters: int = 4,
        threads: int | None = None,
        port: int = 0,
        api_key: str | None = None,
        options: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        start_timeout_s: float = 300.0,
    ) -> None:
        super().__init__(
            f"vLLM for {str(model)!r}",
            log_path=log_path,
            start_timeout_s=start_timeout_s,
            stop_grace_s=15.0,
        )
        self.model, self.name = Path(model), name
        self.python = None if python is None else Path(python)
        self.dtype = dtype
        self.max_lora_rank, self.max_adapters = max_lora_rank, max_adapters
        self.threads = threads
        self.options = dict(options or {})
        self._port = self._chosen = port
        self._key = api_key or secrets.token_urlsafe(24)

    @property
    def api_key(self) -> str:
        """The key that requests must carry."""
        return self._key

    def arguments(self, port: int) -> list[str]:
        """Options of vLLM's server."""
        given = {
            "model": str(self.model.resolve()),
            "served-model-name": self.name,
            "host": "127.0.0.1",
            "port": str(port),
            "dtype": self.dtype,
            "max-model-len": "2048",
            # Up to 16 slots and the anchor; vLLM's default is 20.
            "max-logprobs": "20",
            **self.options,
        }
        arguments = [part for key, value in given.items() for part in (f"--{key}", value)]
        # One token per request: there is nothing to gain from compiling the model.
        arguments += ["--enforce-eager", "--disable-uvicorn-access-log"]
        arguments += ["--enable-prefix-caching"]  # the candidate block is computed once
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
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "OMP_NUM_THREADS": str(self.threads or os.cpu_count() or 1),
        }
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        if self.threads is not None:
            kept.pop("OMP_NUM_THREADS", None)
        return {**defaults, **kept, **wanted}

    def _check(self) -> None:
        if not self.model.joinpath("config.json").is_file():
            raise ServerStartError(f"no model in {str(self.model)!r}: it holds no config.json")
        self.python = self.python or find_python()

    def _launch(self, scratch: Path, log: BinaryIO) -> subprocess.Popen[bytes]:
        port = self._chosen = self._port or _free_port()
        # Deprecated, but the command `vllm serve` fails where the package is called
        # vllm-cpu: it asks for the version of one called vllm.
        python, module = str(self.python), "vllm.entrypoints.openai.api_server"
        return subprocess.Popen(
            [python, str(_SUPERVISE), python, "-m", module, *self.arguments(port)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=self.environment(),
            # vLLM looks for modules in the folder it runs in, and ours is called vllm too.
            cwd=scratch,
            # A group of its own, which the supervisor can end as a whole.
            start_new_session=True,
        )

    def _find_address(self, scratch: Path) -> str | None:
        return f"http://127.0.0.1:{self._chosen}"


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
