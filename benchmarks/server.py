"""The OpenAI-compatible server beside its worker and beside the LiteLLM proxy.

    python benchmarks/server.py [--seconds 5] [--connections 1 32 256] [--litellm PATH]

Each serves the same fake worker, in a process of its own; clients speak plain HTTP from a process
of their own. Shown: requests per second, the median and the 99th percentile of a request, time to
a stream's first token, memory after the run. ``--litellm`` is the path of a ``litellm`` command
(an environment of its own: ``python -m venv E; E/bin/pip install "litellm[proxy]"``).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.results import append, show
from benchmarks.server_parts.load import Load, measure
from benchmarks.server_parts.processes import (
    XROUTER,
    cpu_s,
    free_port,
    memory_mb,
    percentile_99,
    process,
    wait_for,
    worker,
)


def main(options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fake = stack.enter_context(worker(options.latency_ms))
        targets: dict[str, tuple[str, int]] = {"worker": fake}
        targets["xrouter"] = stack.enter_context(_ours(folder, fake[0]))
        if options.litellm:
            targets["LiteLLM"] = stack.enter_context(_litellm(folder, fake[0], options.litellm))
        rows: list[list[str]] = []
        for connections in options.connections:
            direct: Load | None = None
            for name, (url, pid) in targets.items():
                asyncio.run(measure(url, connections, 0.5, stream=False))  # opens what is opened
                plain = _measured(url, pid, connections, options.seconds, stream=False)
                streamed = _measured(url, pid, connections, options.seconds, stream=True)
                direct = direct or plain.load
                rows.append(_row(name, connections, plain, streamed, direct, memory_mb(pid)))
    show("Chat completions, on a machine that others use too", _COLUMNS, rows)
    append("; ".join(map(_told, rows)))


@dataclass(frozen=True)
class _Measured:
    load: Load
    cpu_ms: float
    """Processor time of the server per request: it does not depend on who else is busy."""


def _measured(url: str, pid: int, connections: int, seconds: float, *, stream: bool) -> _Measured:
    before = cpu_s(pid)
    load = asyncio.run(measure(url, connections, seconds, stream=stream))
    answered = max(1, len(load.seconds) + load.errors)
    return _Measured(load, (cpu_s(pid) - before) * 1000 / answered)


_COLUMNS = [
    *("what", "connections", "requests/s", "ms", "added ms", "p99 ms", "CPU ms"),
    *("streams/s", "first token ms", "CPU ms", "errors", "MB"),
]


def _row(
    name: str,
    connections: int,
    plain: _Measured,
    streamed: _Measured,
    direct: Load,
    memory: float,
) -> list[str]:
    load, stream = plain.load, streamed.load
    added = statistics.median(load.seconds) - statistics.median(direct.seconds)
    return [
        name,
        str(connections),
        f"{load.rate:.0f}",
        f"{statistics.median(load.seconds) * 1000:.1f}",
        f"{added * 1000:.1f}",
        f"{percentile_99(load.seconds) * 1000:.1f}",
        f"{plain.cpu_ms:.1f}",
        f"{stream.rate:.0f}",
        f"{statistics.median(stream.first) * 1000:.1f}",
        f"{streamed.cpu_ms:.1f}",
        str(load.errors + stream.errors),
        f"{memory:.0f}",
    ]


def _told(row: list[str]) -> str:
    name, connections, rate, ms, added, _, cpu, streams, first, stream_cpu, errors, memory = row
    wrong = "" if errors == "0" else f", {errors} errors"
    return (
        f"{name} at {connections}: {rate} requests/s, {ms} ms (+{added}), CPU {cpu} ms, {streams} "
        f"streams/s, first token {first} ms, CPU {stream_cpu} ms, {memory} MB{wrong}"
    )


@contextlib.contextmanager
def _ours(folder: Path, worker: str) -> Iterator[tuple[str, int]]:
    cards = [
        {
            "name": name,
            "model": name,
            "base_url": f"{worker}/v1",
            "price": {"input": price, "output": price},
        }
        for name, price in (("small", 0.1), ("large", 1.0))
    ]
    pool = folder / "pool.json"
    pool.write_text(json.dumps({"models": cards}))
    port = free_port()
    command = [*XROUTER, "serve", "--pool", str(pool), "--policy", "cheapest", "--port", str(port)]
    with process(command, stdout=subprocess.DEVNULL) as started:
        wait_for(f"http://127.0.0.1:{port}/healthz")
        yield f"http://127.0.0.1:{port}", started.pid


@contextlib.contextmanager
def _litellm(folder: Path, worker: str, command: str) -> Iterator[tuple[str, int]]:
    models = [
        {
            "model_name": name,
            "litellm_params": {
                "model": f"openai/{name}",
                "api_base": f"{worker}/v1",
                "api_key": "none",
            },
        }
        for name in ("xrouter", "large")
    ]
    config = folder / "litellm.json"  # YAML reads JSON
    general = {"dangerously_permit_weak_or_unset_master_key": True}
    config.write_text(json.dumps({"model_list": models, "general_settings": general}))
    port = free_port()
    words = [command, "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with process(
        words, env={**kept, **quiet}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as started:
        wait_for(f"http://127.0.0.1:{port}/health/liveliness")
        yield f"http://127.0.0.1:{port}", started.pid


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--latency-ms", type=int, default=20)
    parser.add_argument("--litellm", help="path of a litellm command to compare with")
    main(parser.parse_args())
