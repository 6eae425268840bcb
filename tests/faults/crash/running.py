"""What runs for ever: conversations over a checkpointer, and the recorder."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from langgraph.checkpoint.sqlite import SqliteSaver

from tests.faults.crash.jobs import CONVERSATIONS, REQUESTS, is_whole
from tests.faults.crash.scene import Scene
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

RESULTS = "xrouter_results"
"""Where a graph's state has what calls gave."""


class Serving(Scene):
    """Two calls a request; one that had finished and was kept is never paid again."""

    job = "tests.faults.crash.jobs:serve"

    def __init__(self, folder: Path, dice: random.Random) -> None:
        super().__init__(folder, dice)
        models = [FakeModel(name=n, reply=f"{n} says", latency_s=0.02) for n in ("small", "large")]
        self.server = FakeOpenAIServer(models)
        self.database = folder / "checkpoints.db"
        self.seen, self.done = 0, frozenset[tuple[str, str]]()

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.server:
            yield

    def arguments(self) -> list[str]:
        return [str(self.database), self.server.base_url]

    def killed(self) -> None:
        asked = self._asked()
        kept = self._kept()
        # Asked in this process although an earlier one had kept the answer.
        again = [call for call in asked[self.seen :] if call in self.done]
        assert not again, f"paid twice: {again}"
        self.seen, self.done = len(asked), kept

    def finished(self) -> None:
        self.killed()
        assert {text for text, _ in self.done} == {f"question {n}" for n in range(CONVERSATIONS)}
        assert set(self._asked()) == self.done

    def anew(self) -> None:
        for path in self.folder.glob("checkpoints.db*"):
            path.unlink()
        self.server.clear()
        self.seen, self.done = 0, frozenset[tuple[str, str]]()

    def _asked(self) -> list[tuple[str, str]]:
        return [
            (str(request.body["messages"][-1]["content"]), request.model)
            for request in self.server.requests
        ]

    def _kept(self) -> frozenset[tuple[str, str]]:
        """Calls whose answer is in the checkpointer's file."""
        if not self.database.exists():
            return frozenset()
        is_whole(self.database)
        found = set()
        with (
            SqliteSaver.from_conn_string(str(self.database)) as saver,
            contextlib.suppress(sqlite3.OperationalError),  # before the first table
        ):
            for saved in saver.list(None):
                number = saved.config["configurable"]["thread_id"][1:]
                written = [v for _, key, v in saved.pending_writes or () if key == RESULTS]
                values = [*written, saved.checkpoint["channel_values"].get(RESULTS) or []]
                for results in values:
                    if isinstance(results, list):  # and not an Overwrite
                        found |= {(f"question {number}", result["card"]) for result in results}
        return frozenset(found)


class Recording(Scene):
    """``durability="sync"``: what was answered is in the store."""

    job = "tests.faults.crash.jobs:record"
    durability = "sync"

    def __init__(self, folder: Path, dice: random.Random) -> None:
        super().__init__(folder, dice)
        self.store, self.answered = folder / "traces.db", folder / "answered.txt"
        self.anew()

    def arguments(self) -> list[str]:
        return [str(self.store), str(self.answered), self.durability]

    def killed(self) -> None:
        answered = set(self.answered.read_text().split()) if self.answered.exists() else set()
        if not self.store.exists():
            assert not answered
            return
        is_whole(self.store)
        with sqlite3.connect(self.store) as beside:
            tables = {name for (name,) in beside.execute("SELECT name FROM sqlite_master")}
            if not {"runs", "routes"} <= tables:  # killed before there were any
                assert not answered
                return
            rows = "SELECT trace_id, count(*) FROM runs GROUP BY trace_id"
            runs = dict(beside.execute(rows).fetchall())
            routed = {trace for (trace,) in beside.execute("SELECT trace_id FROM routes")}
        self.check(answered - routed, Counter(runs[trace] for trace in routed))

    def check(self, lost: set[str], sizes: Counter[int]) -> None:
        assert not lost
        assert len(sizes) <= 1, f"traces that are not whole: {sizes}"

    def finished(self) -> None:
        self.killed()

    def anew(self) -> None:
        for path in self.folder.iterdir():
            path.unlink()


class RecordingAsync(Recording):
    """The default durability: a killed process loses its last moments, and no more."""

    durability = "async"

    def anew(self) -> None:
        super().anew()
        self.lost: set[str] = set()

    def check(self, lost: set[str], sizes: Counter[int]) -> None:
        # A batch gathers for 0.05 s and is then committed.
        assert len(lost - self.lost) < REQUESTS, "a whole process's requests are lost"
        self.lost |= lost
