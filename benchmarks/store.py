"""The trace store at scale: extraction by size, memory, bytes on disk, and a thousand at once.

    python benchmarks/store.py [--traces 5000 50000] [--requests 1000]

A few requests are really recorded: an answer, a conversation, a failover, a tool loop. They are
then cloned, with ids, times and texts of their own, through ``TraceStore.import_runs``; every
fourth trace has feedback. Extraction is ``xrouter_lg.episodes.extract`` over ``iter_traces``, each
size in a process of its own, whose peak memory is told. Bytes on disk are the file's after a
checkpoint of its log. Last, a thousand requests at once go through a real graph with a recorder as
it comes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import orjson
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage

from benchmarks.results import append, show
from benchmarks.shapes import app_around, pool_at
from xrouter_lg import Recorder, TraceStore, XRouterNode
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan, always, rate_limit

QUESTION, ANSWER = "<the question stands here>", "<the answer stands here>"
FEEDBACK_EVERY = 4
RUNS_PER_IMPORT = 2000


def conversations() -> list[list[Any]]:
    """What is asked: as most requests are, and longer ones."""
    system, question = SystemMessage(f"You help customers. {QUESTION}"), HumanMessage(QUESTION)
    turns = [system, question, AIMessage(ANSWER)] * 1 + [question, AIMessage(ANSWER)] * 3
    looked = AIMessage("", tool_calls=[{"name": "look", "args": {"q": QUESTION}, "id": "call_1"}])
    return [
        [question],
        [system, question],
        [*turns, question],
        [system, question, looked, ToolMessage(ANSWER, tool_call_id="call_1")],
    ]


def templates(store: Path) -> list[dict[str, Any]]:
    """Traces as the real node leaves them, two of each conversation: one with a failover."""

    async def ask(app: Any, callbacks: list[Any]) -> None:
        for number, messages in enumerate(conversations()):
            config = {"configurable": {"thread_id": f"thread-{number}"}, "callbacks": callbacks}
            await app.ainvoke({"messages": messages}, config)

    models = [FakeModel(name="small", reply=ANSWER), FakeModel(name="large", reply=ANSWER)]
    busy = FaultPlan({"small": always(rate_limit())})
    for faults in (None, busy):
        with FakeOpenAIServer(models, faults=faults) as server, Recorder(store) as recorder:
            node = XRouterNode(pool_at(server.base_url), policy="fixed:small")
            asyncio.run(ask(app_around(node), [recorder]))
    with TraceStore(store) as opened:
        return [{"runs": trace.runs} for trace in opened.iter_traces()]


class Cloner:
    """Makes traces like the templates, each with ids, times and texts of its own."""

    def __init__(self, made: list[dict[str, Any]], seed: int) -> None:
        self._texts = [orjson.dumps(template["runs"]).decode() for template in made]
        self._ids = [[run["id"] for run in template["runs"]] for template in made]
        self._random = random.Random(seed)
        self._prose = " ".join(
            re.findall(r"[\w,.;:'-]+", "".join(f.read_text() for f in _prose_files()))
        )

    def clone(self, number: int) -> list[dict[str, Any]]:
        which = number % len(self._texts)
        text = self._texts[which]
        for old in self._ids[which]:
            text = text.replace(old, self._id(number))
        for mark, longest in ((QUESTION, 600), (ANSWER, 900)):
            text = text.replace(mark, self._words(longest))
        runs: list[dict[str, Any]] = orjson.loads(text)
        shift = timedelta(seconds=30 * number) - timedelta(days=30)
        for run in runs:
            for name in ("start_time", "end_time"):
                run[name] = (datetime.fromisoformat(run[name]) + shift).isoformat()
        return runs

    def _id(self, number: int) -> str:
        """Ordered by time, as LangChain's run ids are."""
        since = 1_790_000_000_000 + 30_000 * number
        chance = self._random.getrandbits(74)
        return str(uuid.UUID(int=since << 80 | 7 << 76 | 2 << 62 | chance & ~(15 << 62)))

    def _words(self, longest: int) -> str:
        """Some of the prose of this checkout's documents: text as people write it."""
        length = self._random.randint(40, longest)
        start = self._random.randrange(len(self._prose) - length)
        return self._prose[start : start + length].replace("\\", "").replace('"', "")


def _prose_files() -> Iterator[Path]:
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").glob("*.md"))


def build(templates_at: Path, store: Path, count: int) -> dict[str, float]:
    """Fill a store with ``count`` traces."""
    cloner = Cloner(orjson.loads(templates_at.read_bytes()), seed=count)
    started = time.perf_counter()
    with TraceStore(store) as opened:
        held: list[dict[str, Any]] = []
        for number in range(count):
            held += cloner.clone(number)
            if len(held) >= RUNS_PER_IMPORT or number == count - 1:
                opened.import_runs(held)
                said = {run["trace_id"] for run in held}
                opened.import_feedback(
                    {"id": f"f-{trace}", "run_id": trace, "trace_id": trace, "key": "helpful"}
                    | {"score": 0.5, "comment": "quite helpful"}
                    for trace in sorted(said)[::FEEDBACK_EVERY]
                )
                held = []
        runs = opened.counts()["runs"]
    seconds = time.perf_counter() - started
    return {"build_s": seconds, "runs": runs, "bytes": size_of(store)}


def extract(store: Path) -> dict[str, float]:
    """Read every episode; seconds, and the peak memory of this process in bytes."""
    from xrouter_lg.episodes.extract import episodes

    with TraceStore(store, create=False) as opened:
        idle = _peak_bytes()
        started, used = time.perf_counter(), time.process_time()
        found = messages = feedback = 0
        for trace in opened.iter_traces():
            for episode in episodes(trace.runs, trace.feedback):
                found += 1
                messages += len(episode.messages)
                feedback += len(episode.feedback)
        wall, cpu = time.perf_counter() - started, time.process_time() - used
    assert messages >= found and feedback
    return {"wall_s": wall, "cpu_s": cpu, "episodes": found, "peak": _peak_bytes(), "idle": idle}


def concurrent(store: Path, base_url: str, requests: int) -> dict[str, float]:
    """That many requests started together, recorded as anybody would."""

    async def burst() -> float:
        async def ask(number: int) -> None:
            await app.ainvoke({"messages": [HumanMessage(f"question {number}")]})

        await asyncio.gather(*(ask(number) for number in range(20)))  # opens the connections
        started = time.perf_counter()
        await asyncio.gather(*(ask(number) for number in range(requests)))
        return time.perf_counter() - started

    with Recorder(store) as recorder:
        app = app_around(XRouterNode(pool_at(base_url), policy="fixed:small", traces=recorder))
        seconds = asyncio.run(burst())
        recorder.flush()
        counts = recorder.store.counts()
        lost = {"dropped": recorder.dropped, "failed": recorder.failed}
        whole = {len(trace.runs) for trace in recorder.store.iter_traces()}
    return {
        "wall_s": seconds,
        "missing": requests + 20 - counts["routes"],
        **lost,
        "uneven": len(whole) - 1,
        "bytes": size_of(store),
        "traces": counts["traces"],
    }


def size_of(store: Path) -> int:
    with contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return store.stat().st_size


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_process(*args: object) -> dict[str, float]:
    """One step in a process of its own; its last line is the result."""
    command = [sys.executable, __file__, *map(str, args)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(sizes: list[int], requests: int) -> None:
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = folder / "templates.json"
        made.write_bytes(orjson.dumps(templates(folder / "templates.db")))
        raw = len(made.read_bytes()) / len(orjson.loads(made.read_bytes()))
        rows, per_trace = [], []
        for size in sizes:
            store = folder / f"{size}.db"
            built = in_process("--build", made, store, size)
            read = in_process("--extract", store)
            assert read["episodes"] == size
            per_trace.append(read["cpu_s"] / size)
            rows.append(
                [
                    f"{size:,} × {built['runs'] / size:.1f} runs",
                    f"{size / built['build_s']:.0f}",
                    f"{size / read['wall_s']:.0f}",
                    f"{read['wall_s'] / size * 1e3:.3f}",
                    f"{per_trace[-1] * 1e3:.3f}",
                    f"{read['peak'] / 1e6:.0f} ({read['idle'] / 1e6:.0f} idle)",
                    f"{built['bytes'] / size / 1e3:.2f}",
                ]
            )
            store.unlink()
        command = [sys.executable, "-m", "xrouter_lg.testing", "--latency-ms", "50"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
            assert server.stdout is not None
            try:
                base_url = server.stdout.readline().strip()
                at_once = in_process("--burst", folder / "burst.db", base_url, requests)
            finally:
                server.terminate()
    columns = ["traces", "in/s", "out/s", "ms", "CPU ms", "peak MB", "KB each"]
    show("Import and extraction", columns, rows)
    ratio = per_trace[-1] / per_trace[0]
    print(f"CPU time per trace at {sizes[-1]:,} is {ratio:.2f} × that at {sizes[0]:,}")
    print(f"templates as JSON: {raw / 1e3:.1f} KB a trace")
    burst = (
        f"{requests} requests at once in {at_once['wall_s']:.2f} s: "
        f"dropped {at_once['dropped']:.0f}, failed {at_once['failed']:.0f}, "
        f"missing {at_once['missing']:.0f}, uneven {at_once['uneven']:.0f}, "
        f"{at_once['bytes'] / at_once['traces'] / 1e3:.2f} KB/trace"
    )
    print(burst)
    named = [
        f"{row[0]}: imported {row[1]}/s, extracted {row[2]}/s ({row[3]} ms, CPU {row[4]} ms per "
        f"trace), peak {row[5]} MB, {row[6]} KB/trace"
        for row in rows
    ]
    append("; ".join([*named, f"ratio ×{ratio:.2f}", burst, f"load {load:.1f} at the start"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--traces", type=int, nargs="+", default=[5_000, 50_000])
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--build", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--extract", help=argparse.SUPPRESS)
    parser.add_argument("--burst", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        made_at, at, number = options.build
        print(json.dumps(build(Path(made_at), Path(at), int(number))))
    elif options.extract:
        print(json.dumps(extract(Path(options.extract))))
    elif options.burst:
        at, url, number = options.burst
        print(json.dumps(concurrent(Path(at), url, int(number))))
    else:
        main(options.traces, options.requests)
