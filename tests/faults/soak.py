"""Everything at once, for minutes: ``python -m tests.faults.soak --seconds 600 --seed 7``.

Seeded faults of every kind on all cards but one, a LangSmith that takes connections and never
answers, the store locked for seconds, the pool's file rewritten and the policy's alias moved under
way, callers who leave. No request may fail and no record may be lost: else the code is 1. Memory,
descriptors and threads are read on the way.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import random
import socket
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from tests.faults.test_matrix import BROKEN_OFF, FAULTS
from tests.support.apps import app, ask, usd
from tests.support.logs import CARDS, USD, World
from xrouter_lg import ChatXRouter, ModelPool, Recorder, XRouterNode
from xrouter_lg.checkpoints.aliases import promote
from xrouter_lg.fitting.head_checkpoint import write_head
from xrouter_lg.fitting.read_lesson import LessonSettings, lesson_of, read_either
from xrouter_lg.outcomes.table import OutcomeTable
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Fault, FaultPlan
from xrouter_lg.testing.answers import Call

AT_ONCE = 12
KINDS = [fault for kind, fault in FAULTS.items() if kind not in BROKEN_OFF]
"""What breaks a stream off after its first token is an error by contract, and not among them."""
PRICES = {
    "small": {"input": "1", "output": "2"},
    "coder": {"input": "2", "output": "4"},
    "large": {"input": "10", "output": "30"},
}


class Soak:
    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.rng, self.seed = folder, random.Random(seed), seed
        self.store, self.pool_file = folder / "traces.db", folder / "pool.yaml"
        self.ended: Counter[str] = Counter()
        self.answered: set[str] = set()
        self.standing: list[tuple[int, int, int, int]] = []
        """Requests, resident bytes, descriptors, threads."""
        self.errors: list[str] = []

    def fault(self, call: Call) -> Fault | None:
        rng = random.Random(f"{self.seed} {call.model} {call.number}")
        return rng.choice(KINDS) if rng.random() < 0.2 else None

    def write_pool(self, fake: FakeOpenAIServer, number: int) -> None:
        cards = [
            {
                "name": name,
                "model": name,
                "base_url": fake.base_url,
                "price": PRICES[name],
                "max_retries": 0,
                "description": f"the {name} one, told for the {number}. time",
            }
            for name in CARDS
        ]
        beside = self.pool_file.with_suffix(".new")
        beside.write_text(yaml.safe_dump({"default": "large", "models": cards}))
        beside.replace(self.pool_file)

    def write_checkpoints(self) -> None:
        """Two that learned from different requests, and production points to the first."""
        for seed, name in enumerate(("one", "two")):
            log = World.of(150, seed=seed)
            key = [{"source": "app", "task": "t", "prompt_id": str(n)} for n in range(150)]
            prompts = [{**key[n], "prompt": text} for n, text in enumerate(log.prompts)]
            outcomes = [
                {**key[n], "model": card, "score": float(log.score_N_M[n, m])}
                | {"cost_usd": float(USD[m])}
                for n in range(150)
                for m, card in enumerate(CARDS)
            ]
            OutcomeTable.from_rows(outcomes, prompts).write(self.folder / f"outcomes_{name}")
            how = LessonSettings()
            table, _ = read_either(self.folder / f"outcomes_{name}", how)
            write_head(self.folder / "checkpoints" / name, lesson_of(table, how))
        self.swap(0)

    def swap(self, number: int) -> None:
        name = ("one", "two")[number % 2]
        root = self.folder / "checkpoints"
        promote(root / name, root=root, force="a soak moves it to and fro")

    def lock(self) -> None:
        """Hold the store as another process does."""
        with contextlib.closing(sqlite3.connect(self.store, isolation_level=None)) as other:
            other.execute("PRAGMA busy_timeout = 5000")
            other.execute("BEGIN EXCLUSIVE")
            time.sleep(self.rng.uniform(0.5, 8.0))
            other.execute("ROLLBACK")

    def run(self, seconds: float) -> bool:
        models = [FakeModel(name=name, reply=f"{name} says a word or two") for name in CARDS]
        with FakeOpenAIServer(models, keep_requests=100) as fake, hanging() as langsmith:
            os.environ |= {
                "LANGSMITH_TRACING": "true",
                "LANGSMITH_ENDPOINT": langsmith,
                "LANGSMITH_API_KEY": "lsv2_pt_0123456789abcdef",
            }
            logging.getLogger("langsmith").setLevel(logging.CRITICAL)
            fake.faults = FaultPlan({"small": self.fault, "coder": self.fault})
            self.write_pool(fake, 0)
            self.write_checkpoints()
            with Recorder(self.store) as recorder:
                asyncio.run(self._requests(fake, recorder, seconds))
                wrote = recorder.flush(120)
                lost = recorder.failed + recorder.dropped
                rows = recorder.store.routes()
            bill = sum((usd(b.usage, PRICES[b.served_model]) for b in fake.bill), Decimal(0))
        return self._report(rows, bill, lost, wrote)

    async def _requests(self, fake: FakeOpenAIServer, recorder: Recorder, seconds: float) -> None:
        pool = ModelPool.from_yaml(self.pool_file)
        policy = str(self.folder / "checkpoints" / "production")
        node = XRouterNode(pool, policy=policy, traces=recorder, cost_weight=0.3)
        graph = app(node)
        chat = ChatXRouter(node.router, traces=recorder)
        until = time.monotonic() + seconds

        async def by_graph(text: str) -> dict[str, Any]:
            state = await graph.ainvoke(ask(text))
            return state["messages"][-1].response_metadata["xrouter"]  # type: ignore[no-any-return]

        async def by_stream(text: str) -> dict[str, Any]:
            async for part in graph.astream(ask(text), stream_mode=["messages", "values"]):
                last: Any = part
            return last[1]["messages"][-1].response_metadata["xrouter"]  # type: ignore[no-any-return]

        async def by_chat(text: str) -> dict[str, Any]:
            message = await chat.ainvoke(ask(text)["messages"])
            return message.response_metadata["xrouter"]  # type: ignore[no-any-return]

        async def client(number: int) -> None:
            rng = random.Random(f"{self.seed} client {number}")
            ways = (by_graph, by_stream, by_chat)
            while time.monotonic() < until:
                text = f"please tell music {rng.random()}"
                asked = asyncio.ensure_future(rng.choice(ways)(text))
                if rng.random() < 0.02:
                    await asyncio.sleep(rng.uniform(0, 0.02))
                    asked.cancel()
                try:
                    self.answered.add((await asked)["trace_id"])
                    self.ended["answered"] += 1
                except asyncio.CancelledError:
                    self.ended["left"] += 1
                except Exception as error:
                    self.ended["failed"] += 1
                    self.errors.append(repr(error)[:300])

        async def again(every_s: float, act: Callable[[int], Any]) -> None:
            number = 0
            while time.monotonic() < until:
                await asyncio.sleep(every_s)
                number += 1
                await asyncio.to_thread(act, number)

        others: list[Awaitable[None]] = [
            again(1.0, lambda number: self.write_pool(fake, number)),
            again(3.0, self.swap),
            again(7.0, lambda number: self.lock()),
            again(2.0, lambda number: self._stand()),
        ]
        await asyncio.gather(*(client(number) for number in range(AT_ONCE)), *others)

    def _stand(self) -> None:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        memory = pages * os.sysconf("SC_PAGE_SIZE")
        descriptors = len(os.listdir("/proc/self/fd"))
        done = sum(self.ended.values())
        self.standing.append((done, memory, descriptors, threading.active_count()))

    def _report(self, rows: list[Any], bill: Decimal, lost: int, wrote: bool) -> bool:
        kept = {row.trace_id for row in rows}
        missing = len(self.answered - kept)
        estimated = sum((Decimal(r.record.estimated_cost_usd or 0) for r in rows), Decimal(0))
        routes = Counter(row.record.route for row in rows)
        versions = {row.record.policy_version for row in rows}
        fallbacks = sum(bool(row.record.fallbacks) for row in rows)
        later = self.standing[len(self.standing) // 2 :]
        slope = slope_of([(done, memory) for done, memory, _, _ in later])
        out = [
            f"requests: {dict(self.ended)}; answered by {dict(routes)}, {fallbacks} by a fallback, "
            f"{len(versions)} versions of the policy",
            f"failures: {self.ended['failed']}",
            f"records lost: {missing} of {len(self.answered)}; runs lost by the recorder: {lost}",
            f"bill ${bill}, records with estimates ${estimated} ({estimated / bill - 1:+.2%})",
            f"memory in the later half: {slope:+.0f} bytes a request",
            f"descriptors {later[0][2]} to {later[-1][2]}, threads {later[0][3]} to {later[-1][3]}",
        ]
        print("\n".join([*out, *dict.fromkeys(self.errors[:20])]))  # noqa: T201
        return wrote and not (self.ended["failed"] or missing or lost)


def slope_of(points: list[tuple[int, int]]) -> float:
    """Least squares: how much the second grows with the first."""
    if len(points) < 2:
        return 0.0
    x = sum(p[0] for p in points) / len(points)
    y = sum(p[1] for p in points) / len(points)
    spread = sum((p[0] - x) ** 2 for p in points)
    return sum((p[0] - x) * (p[1] - y) for p in points) / spread if spread else 0.0


@contextlib.contextmanager
def hanging() -> Iterator[str]:
    """The URL of a server that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        kept: list[socket.socket] = []

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    kept.append(listening.accept()[0])

        threading.Thread(target=take, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for connection in kept:
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        held = Soak(Path(folder), options.seed).run(options.seconds)
    sys.stdout.flush()
    os._exit(0 if held else 1)  # LangSmith's client would wait for its server


if __name__ == "__main__":
    main()
