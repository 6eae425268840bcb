"""What runs by night: pulling, backfilling, learning, training, exporting, promoting."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path

from tests.backfill.world import World as BackfillWorld
from tests.backfill.world import models
from tests.checkpoints.test_aliases import checkpoint
from tests.faults.crash.scene import Scene
from tests.langsmith.conftest import PROJECT, add_trace, days_ago, stored, there
from tests.learn.test_night import CARDS
from tests.learn.test_night import record as record_log
from tests.support.langsmith_server import LangSmithServer
from tests.support.logs import USD
from tests.support.logs import World as Log
from xrouter_lg.backfill import conversation_of
from xrouter_lg.backfill.answer import key_base
from xrouter_lg.checkpoints.alias_log import history
from xrouter_lg.checkpoints.aliases import read_alias, resolve_checkpoint
from xrouter_lg.checkpoints.folder import read_manifest, verify
from xrouter_lg.learn.state import read_nights
from xrouter_lg.outcomes.table import OutcomeTable
from xrouter_lg.testing import FakeOpenAIServer
from xrouter_lg.tracing import TraceStore

CLI = "tests.support.forked:cli"


class Pulling(Scene):
    """From LangSmith: traces are in the store whole or not at all, and once."""

    job = CLI

    def __init__(self, folder: Path, dice: random.Random) -> None:
        super().__init__(folder, dice)
        self.server, self.store = LangSmithServer(), folder / "traces.db"
        self.runs = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.server:
            for number in range(80):
                add_trace(self.server, number, days_ago(2 - number / 50))
            self.server.latency_s = 0.005
            yield

    def arguments(self) -> list[str]:
        said = ["--project", PROJECT, "--since", "3d", "--store", str(self.store)]
        return ["traces", "pull", *said, "--endpoint", self.server.url, "--page-size", "10"]

    def killed(self) -> None:
        if not self.store.exists():
            return
        whole = there(self.server)
        with TraceStore(self.store) as store:
            kept = stored(store)
        assert all(runs == whole[trace] for trace, runs in kept.items())
        runs = sum(map(len, kept.values()))
        assert runs >= self.runs, "a kill took back what was kept"
        self.runs = runs

    def finished(self) -> None:
        with TraceStore(self.store) as store:
            assert stored(store) == there(self.server)

    def anew(self) -> None:
        for path in self.folder.glob("traces.db*"):
            path.unlink()
        self.runs = 0


class Backfilling(Scene):
    """What has been bought is never bought again, and the budget holds over all of it."""

    job = CLI
    prompts, budget = 40, "0.05"

    def __init__(self, folder: Path, dice: random.Random) -> None:
        super().__init__(folder, dice)
        self.server = FakeOpenAIServer(models(latency_s=0.01))

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.server:
            self.anew()
            yield

    def arguments(self) -> list[str]:
        said = [f"--pool={self.world.pool_file}", "--concurrency=4", "--strategy=random"]
        return ["backfill", str(self.world.folder), *said, f"--budget-usd={self.budget}"]

    def killed(self) -> None:
        asked = [
            (request.model, request.body["messages"][-1]["content"])
            for request in self.server.requests
        ]
        again = [call for call in asked[self.seen :] if call in self.done]
        assert not again, f"paid twice: {again}"
        self.seen = len(asked)
        OutcomeTable.load(self.world.folder).outcomes.collect()
        if not self.world.cache.exists():
            return
        tables = {name for (name,) in self.world.journal("select name from sqlite_master")}
        if "answers" not in tables:
            return
        answered = self.world.journal("select base from answers where error is null")
        self.done = frozenset(self.pair_of[base] for (base,) in answered)
        assert self.world.counted_usd() <= Decimal(self.budget)

    def finished(self) -> None:
        self.killed()
        rows = self.world.outcomes.select("prompt_id", "model").rows()
        assert Counter(rows) == Counter(
            (f"p{i}", card) for i in range(self.prompts) for card in ("small", "medium", "large")
        )
        assert self.world.billed_usd() <= self.world.counted_usd()

    def anew(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.server.clear()
        self.world = BackfillWorld(self.folder, self.server, self.prompts)
        self.seen, self.done = 0, frozenset[tuple[str, str]]()
        pool = self.world.pool
        self.pair_of = {
            key_base(conversation_of(text, {}), pool[name]): (name, text)
            for text in (f"Say the number {i}" for i in range(self.prompts))
            for name in ("small", "medium")
        }


class Learning(Scene):
    """A night: production is what it was or what was learned, its log is whole, and each lesson
    stands in the book once."""

    job = CLI

    def __init__(self, folder: Path, dice: random.Random) -> None:
        super().__init__(folder, dice)
        self.store = folder / "traces.db"
        self.learning, self.checkpoints = folder / "learning", folder / "checkpoints"
        record_log(self.store, Log.of(300, seed=3))

    def arguments(self) -> list[str]:
        said = ["--store", str(self.store), "--folder", str(self.learning), "--feedback", "liked"]
        return ["learn", *said, "--checkpoints", str(self.checkpoints), "--cost-weight", "0.5"]

    def killed(self) -> None:
        assert len(read_nights(self.learning)) <= 1
        outcomes = self.learning / "outcomes"
        if outcomes.joinpath("outcomes.parquet").exists():
            OutcomeTable.load(outcomes).outcomes.collect()
        for report in self.learning.glob("report.json"):
            json.loads(report.read_text())
        alias = read_alias(self.checkpoints, "production")
        if alias is not None:
            manifest = verify(resolve_checkpoint(self.checkpoints / "production"))
            assert manifest.version == alias.version
        for folder in self.checkpoints.glob("*/manifest.json"):
            verify(folder.parent)

    def finished(self) -> None:
        self.killed()
        assert read_alias(self.checkpoints, "production") is not None
        [night] = read_nights(self.learning)
        assert night.done == "promoted"
        moves = history(self.checkpoints, "production")
        assert len({move.to_version for move in moves}) == 1
        assert not list(self.folder.rglob("*.tmp"))

    def anew(self) -> None:
        shutil.rmtree(self.learning, ignore_errors=True)
        shutil.rmtree(self.checkpoints, ignore_errors=True)


class Training(Scene):
    """The new checkpoint takes the place of the old one in one step."""

    job = CLI

    def __init__(self, folder: Path, dice: random.Random) -> None:
        super().__init__(folder, dice)
        self.output = folder / "checkpoint"
        log = Log.of(150, seed=4)
        key = [{"source": "app", "task": "t", "prompt_id": str(n)} for n in range(150)]
        prompts = [{**key[n], "prompt": text} for n, text in enumerate(log.prompts)]
        outcomes = [
            {
                **key[n],
                "model": card,
                "score": float(log.score_N_M[n, m]),
                "cost_usd": float(USD[m]),
            }
            for n in range(150)
            for m, card in enumerate(CARDS)
        ]
        OutcomeTable.from_rows(outcomes, prompts).write(folder / "outcomes")
        self.there = False

    def arguments(self) -> list[str]:
        return ["train", str(self.folder / "outcomes"), "--output", str(self.output)]

    def killed(self) -> None:
        if self.there or self.output.exists():
            verify(self.output)
            self.there = True

    def finished(self) -> None:
        self.killed()
        assert self.there and not [*self.folder.glob("*.tmp"), *self.folder.glob(".*.tmp")]


class Exporting(Scene):
    """The file, or folder, of the last export stays until the next one is whole."""

    job = CLI

    def __init__(self, folder: Path, dice: random.Random) -> None:
        super().__init__(folder, dice)
        self.store, self.round = folder / "traces.db", 0
        record_log(self.store, Log.of(200, seed=3))
        with TraceStore(self.store) as store:
            self.whole = stored(store)
        self.there: set[str] = set()

    @property
    def target(self) -> str:
        return ("traces.jsonl", "traces.parquets")[self.round % 2]

    def arguments(self) -> list[str]:
        self.round += 1
        kind = ("jsonl", "parquet")[self.round % 2]
        said = ["--store", str(self.store), "--to", str(self.folder / self.target)]
        return ["traces", "export", *said, "--format", kind]

    def killed(self) -> None:
        for name in ("traces.jsonl", "traces.parquets"):
            path = self.folder / name
            if name not in self.there and not path.exists():
                continue
            self.there.add(name)
            copy = self.folder / "copy.db"
            with TraceStore(copy) as store:
                store.import_files([path])
                assert stored(store) == self.whole
            for file in self.folder.glob("copy.db*"):
                file.unlink()

    def finished(self) -> None:
        self.killed()
        assert self.target in self.there
        assert not list(self.folder.glob(f".{self.target}.*.tmp"))


class Promoting(Scene):
    """The alias points to a whole checkpoint, and its log is a chain."""

    job = "tests.faults.crash.jobs:move"

    def __init__(self, folder: Path, dice: random.Random) -> None:
        super().__init__(folder, dice)
        self.versions = {n: checkpoint(folder, n).version for n in ("one", "two", "three")}

    def arguments(self) -> list[str]:
        return [str(self.folder), ",".join([*self.versions] * 4)]

    def killed(self) -> None:
        alias = read_alias(self.folder, "production")
        if alias is None:
            return
        assert alias.version in self.versions.values()
        assert (
            read_manifest(resolve_checkpoint(self.folder / "production")).version == alias.version
        )

    def finished(self) -> None:
        self.killed()
        chain = [(m.from_version, m.to_version) for m in history(self.folder, "production")]
        assert all(one[1] == other[0] for one, other in itertools.pairwise(chain))
        alias = read_alias(self.folder, "production")
        assert alias is not None and chain[-1][1] == alias.version
