"""Thousands of requests at once in one event loop: how long it is blocked, and what it leaves.

    python -m benchmarks.experiments.load [--at-once 1000,3000] [--rounds 3] [--in-all 20000]

The same graph written by hand runs in turn with the router's, over the same fakes in a process of
their own. A heartbeat of 5 ms says how long the loop did nothing else: its longest pause of each
burst, the least over the rounds. Then requests go through one after the other batch, and memory,
descriptors and threads are read on the way.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from langchain_core.messages import HumanMessage

from benchmarks.results import append, show
from benchmarks.shapes import app_around, hand_written, pool_at
from xrouter_lg import ModelCard, Recorder, XRouterNode
from xrouter_lg.calls.chat_model import build_chat_model

_BEAT_S = 0.005
_AT_ONCE = 100
"""Of the requests that memory is read over."""


async def burst(app: Any, requests: int) -> tuple[float, float]:
    """Seconds for ``requests`` requests started together, and the loop's longest pause in them."""
    longest, done = 0.0, False

    async def beat() -> None:
        nonlocal longest
        while not done:
            before = time.perf_counter()
            await asyncio.sleep(_BEAT_S)
            longest = max(longest, time.perf_counter() - before - _BEAT_S)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(4 * _BEAT_S)
    started = time.perf_counter()
    await asyncio.gather(
        *(app.ainvoke({"messages": [HumanMessage(f"request {i}")]}) for i in range(requests))
    )
    took, done = time.perf_counter() - started, True
    await beating
    return took, longest


def standing() -> tuple[int, int, int]:
    """Resident memory (kB), open descriptors, threads."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    descriptors = len(os.listdir("/proc/self/fd"))
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024, descriptors, threading.active_count()


async def main(sizes: list[int], rounds: int, in_all: int) -> None:
    command = [sys.executable, "-m", "xrouter_lg.testing", "--latency-ms", "50"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert server.stdout is not None
        try:
            url = server.stdout.readline().strip()
            with Recorder(Path(folder) / "traces.db") as recorder:
                apps = _apps(url, recorder)
                said = [await _compare(apps, requests, rounds) for requests in sizes]
                if in_all:
                    said.append(await _over_time(apps["recorder on"], in_all))
                said.append(f"runs lost by the recorder: {recorder.dropped + recorder.failed}")
            append("; ".join(said))
        finally:
            server.terminate()


def _apps(url: str, recorder: Recorder) -> dict[str, Any]:
    model = build_chat_model(ModelCard(name="by_hand", model="by-hand", base_url=url))
    routed = XRouterNode(pool_at(url), policy="fixed:small")
    kept = XRouterNode(pool_at(url), policy="fixed:small", traces=recorder)
    return {
        "hand-written": app_around(hand_written({"small": model, "large": model}, "small")),
        "recorder off": app_around(routed),
        "recorder on": app_around(kept),
    }


async def _compare(apps: dict[str, Any], requests: int, rounds: int) -> str:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in apps}
    for number in range(rounds + 1):
        for name, app in apps.items():
            # Round 0 opens the connections.
            measured = await burst(app, requests if number else 50)
            if number:
                found[name].append(measured)
    wall = {name: min(took for took, _ in each) for name, each in found.items()}
    pause = {name: min(longest for _, longest in each) for name, each in found.items()}
    rows = [
        [
            name,
            f"{wall[name]:.2f}",
            f"{wall[name] / wall['hand-written']:.2f}",
            f"{pause[name] * 1000:.0f}",
            f"{(pause[name] - pause['hand-written']) * 1000:+.0f}",
        ]
        for name in apps
    ]
    show(
        f"{requests} requests at once, best of {rounds}",
        ["graph", "wall s", "ratio", "longest pause ms", "beyond by hand ms"],
        rows,
    )
    return f"{requests} at once: " + ", ".join(
        f"{row[0]} {row[1]} s (×{row[2]}), longest pause {row[3]} ms ({row[4]})" for row in rows
    )


async def _over_time(app: Any, in_all: int) -> str:
    """Memory after each tenth: the slope of the later half, where caches are full."""
    seen: list[tuple[int, int, int]] = []
    for _ in range(10):
        for _ in range(max(1, in_all // 10 // _AT_ONCE)):
            await burst(app, _AT_ONCE)
        seen.append(standing())
    requests = 5 * max(1, in_all // 10 // _AT_ONCE) * _AT_ONCE
    slope = (seen[-1][0] - seen[4][0]) * 1024 / requests
    rows = [[str((n + 1) * 10) + " %", *map(str, row)] for n, row in enumerate(seen)]
    show(f"{in_all} requests in all", ["done", "memory kB", "descriptors", "threads"], rows)
    return (
        f"{in_all} requests: {slope:+.0f} bytes a request in the later half, "
        f"descriptors {seen[0][1]} to {seen[-1][1]}, threads {seen[0][2]} to {seen[-1][2]}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--at-once", default="1000,3000")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--in-all", type=int, default=20_000)
    options = parser.parse_args()
    sizes = [int(size) for size in options.at_once.split(",") if size]
    asyncio.run(main(sizes, options.rounds, options.in_all))
