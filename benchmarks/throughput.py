"""A thousand requests at once over HTTP workers, beside the same graph written by hand.

    python benchmarks/throughput.py [--requests 1000] [--latency-ms 50] [--rounds 3]

The workers are OpenAI-speaking fakes in a process of their own, which keep their own bill. Both
graphs use the same chat model class with a client of its own. Shown: wall time, the ratio, and
whether any record or charge is missing against the server's count.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from langchain_core.messages import HumanMessage

from benchmarks.results import append, show
from benchmarks.shapes import app_around, hand_written, pool_at
from xrouter_lg import ModelCard, Recorder, TraceStore, XRouterNode
from xrouter_lg.calls.chat_model import build_chat_model


async def burst(app: Any, requests: int, label: str) -> tuple[float, list[Any]]:
    """Seconds for ``requests`` requests started together, and their answers."""
    started = time.perf_counter()
    states = await asyncio.gather(
        *(app.ainvoke({"messages": [HumanMessage(f"{label} {i}")]}) for i in range(requests))
    )
    return time.perf_counter() - started, [state["messages"][-1] for state in states]


async def main(requests: int, latency_ms: int, rounds: int) -> None:
    command = [sys.executable, "-m", "xrouter_lg.testing", "--latency-ms", str(latency_ms)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        assert server.stdout is not None
        try:
            base_url = server.stdout.readline().strip()
            await _compare(base_url, Path(folder) / "traces.db", requests, rounds)
        finally:
            server.terminate()


async def _compare(base_url: str, store: Path, requests: int, rounds: int) -> None:
    recorder = Recorder(store)
    by_hand = build_chat_model(ModelCard(name="by_hand", model="by-hand", base_url=base_url))
    apps = {
        "hand-written": app_around(hand_written({"small": by_hand, "large": by_hand}, "small")),
        "XRouterNode, recorder off": app_around(
            XRouterNode(pool_at(base_url), policy="fixed:small")
        ),
        "XRouterNode, recorder on": app_around(
            XRouterNode(pool_at(base_url), policy="fixed:small", traces=recorder)
        ),
    }
    walls: dict[str, list[float]] = {name: [] for name in apps}
    answers: dict[str, list[Any]] = {name: [] for name in apps}
    for number in range(rounds + 1):
        for name, app in apps.items():
            # Round 0 opens the connections and is not timed.
            seconds, messages = await burst(app, requests if number else 20, f"round {number}")
            answers[name] += messages
            if number:
                walls[name].append(seconds)
    recorder.close()
    base = statistics.median(walls["hand-written"])
    rows = [
        [name, f"{statistics.median(w):.2f}", f"{min(w):.2f}", f"{statistics.median(w) / base:.2f}"]
        for name, w in walls.items()
    ]
    show(f"{requests} requests at once", ["variant", "median s", "best s", "ratio"], rows)
    routed = answers["XRouterNode, recorder off"] + answers["XRouterNode, recorder on"]
    missing = _missing(base_url, store, routed, len(answers["XRouterNode, recorder on"]))
    print(missing, f"dropped by the recorder: {recorder.dropped}")
    append(
        f"{requests} requests at once: "
        + "; ".join(f"{row[0]} {row[1]} s (×{row[3]})" for row in rows)
        + f"; {missing}"
    )


def _missing(base_url: str, store: Path, routed: list[Any], recorded: int) -> str:
    """What the records lack of what the server has served, by the server's own bill."""
    with urllib.request.urlopen(base_url.removesuffix("/v1") + "/_stats") as reply:
        bill = json.load(reply)["bill_by_model"]["small"]
    charges = [c for m in routed for c in m.response_metadata["xrouter"]["charges"]]
    tokens = sum(c["usage"]["input_tokens"] + c["usage"]["output_tokens"] for c in charges)
    billed = bill["prompt_tokens"] + bill["completion_tokens"]
    with TraceStore(store) as traces:
        kept = traces.counts()["routes"]
    return (
        f"missing charges {bill['requests'] - len(charges)} of {bill['requests']}, "
        f"missing tokens {billed - tokens} of {billed}, missing records {recorded - kept} of "
        f"{recorded}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--latency-ms", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    asyncio.run(main(options.requests, options.latency_ms, options.rounds))
