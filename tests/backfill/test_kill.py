"""Kill -9 in the middle of a backfill: nothing lost, nothing twice, nothing paid twice."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.backfill.world import World, models
from tests.support.forked import Forks
from xrouter_lg.backfill import conversation_of
from xrouter_lg.backfill.answer import key_base
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, faults, sometimes

CONCURRENCY = 4


@pytest.fixture
def server() -> Iterator[FakeOpenAIServer]:
    with FakeOpenAIServer(models(latency_s=0.02)) as running:
        yield running


class Cli:
    """``xrouter backfill`` of one world."""

    def __init__(self, world: World, starter: Forks, *options: str) -> None:
        self.world, self.starter, self.options = world, starter, options

    def start(self) -> int:
        return self.starter.start(
            "tests.support.forked:cli",
            "backfill",
            str(self.world.folder),
            f"--pool={self.world.pool_file}",
            f"--concurrency={CONCURRENCY}",
            "--strategy=random",  # spares each process the import of scikit-learn
            "--json",
            *self.options,
        )

    def finish(self) -> dict[str, Any]:
        self.start()
        assert self.starter.wait() == 0, self.starter.errors.read_text()
        return self.result

    @property
    def result(self) -> dict[str, Any]:
        """What the last process printed."""
        said: dict[str, Any] = json.loads(self.starter.said.read_text())
        return said

    def signal_after(self, requests: int, pause_s: float, number: int) -> int:
        """Start, send the signal when the server has seen so many more requests; the exit code."""
        seen = len(self.world.server.requests)
        pid = self.start()
        deadline = time.monotonic() + 60
        while len(self.world.server.requests) < seen + requests:
            assert time.monotonic() < deadline, self.starter.errors.read_text()
            time.sleep(0.002)
        time.sleep(pause_s)
        os.kill(pid, number)
        return self.starter.wait()


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Forks]:
    with Forks(tmp_path, "langchain_openai, langsmith, rich.progress, sqlalchemy, typer") as opened:
        yield opened


def settled(server: FakeOpenAIServer) -> None:
    """Wait until every request that arrived has been answered, or dropped."""
    deadline = time.monotonic() + 10
    unbilled = {"rate_limit"}
    while sum(request.fault not in unbilled for request in server.requests) > len(server.bill):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_ten_kills_lose_nothing_double_nothing_and_pay_nothing_twice(
    tmp_path: Path, server: FakeOpenAIServer, starter: Forks
) -> None:
    prompts, kills = 100, 10
    world = World(tmp_path, server, prompts)
    server.faults = FaultPlan({"small": sometimes(0.1, faults.rate_limit(retry_after=0.01))})
    budget = "0.05"
    cli = Cli(world, starter, f"--budget-usd={budget}", f"--verifiers={world.verifiers('exact')}")
    draw = random.Random(4)
    pair_of = {
        key_base(conversation_of(f"Say the number {i}", {}), world.pool[card]): (
            card,
            f"Say the number {i}",
        )
        for i in range(prompts)
        for card in ("small", "medium")
    }
    finished: list[tuple[int, set[tuple[str, str]]]] = []
    for _ in range(kills):
        ended = cli.signal_after(draw.randint(1, 25), draw.uniform(0, 0.04), signal.SIGKILL)
        assert ended == -signal.SIGKILL, "it had ended by itself"
        answered = world.journal("select base from answers where error is null")
        # Requests from this number on were made after these answers had been paid for.
        finished.append((len(server.requests), {pair_of[base] for (base,) in answered}))
    result = cli.finish()
    settled(server)

    # One outcome of every prompt and card, scored.
    rows = world.outcomes.select("prompt_id", "model", "score").rows()
    assert Counter((p, m) for p, m, _ in rows) == Counter(
        (f"p{i}", m) for i in range(prompts) for m in ("small", "medium", "large")
    )
    assert all(score is not None for _, _, score in rows)
    # What had been answered at a kill was never asked again.
    by_number = {
        request.number: (request.model, request.body["messages"][-1]["content"])
        for request in server.requests
    }
    for first, done in finished:
        assert not [number for number in by_number if number >= first and by_number[number] in done]
    assert len({len(done) for _, done in finished}) > kills // 2, "the kills were spread"
    # Only calls in flight at a kill were made again, and the journal knows of each.
    bills = Counter(by_number[line.number] for line in server.bill)
    repeats = sum(bills.values()) - 2 * prompts
    lost = result["spending"]["lost_calls"]
    assert set(bills) == set(pair_of.values())
    assert repeats <= lost <= CONCURRENCY * kills
    # The journal covers the server's books, and the budget covers the journal.
    billed, counted = world.billed_usd(), world.counted_usd()
    assert billed <= counted == Decimal(result["spending"]["counted_usd"])
    assert counted <= Decimal(budget)


def test_a_budget_that_runs_out_between_kills_is_never_exceeded(
    tmp_path: Path, server: FakeOpenAIServer, starter: Forks
) -> None:
    world = World(tmp_path, server, prompts=40)
    cli = Cli(world, starter, "--budget-usd=0.004")
    for requests in (3, 6, 4):
        assert cli.signal_after(requests, 0.01, signal.SIGKILL) == -signal.SIGKILL
    result = cli.finish()
    settled(server)
    assert result["stopped"] == "budget"
    assert result["unaffordable"] > 0
    assert result["spending"]["lost_calls"] > 0
    billed, counted = world.billed_usd(), world.counted_usd()
    assert 0 < billed <= counted <= Decimal("0.004")
    # The same command again has nothing left to spend, and says so without asking anybody.
    before = len(server.requests)
    again = cli.finish()
    assert again["stopped"] == "budget"
    assert len(server.requests) == before
    (kept,) = world.journal("select count(*) from answers where error is null")
    assert world.outcomes.height == 40 + kept[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_ctrl_c_keeps_what_was_paid_for_and_the_same_command_goes_on(
    tmp_path: Path, server: FakeOpenAIServer, starter: Forks, number: signal.Signals
) -> None:
    world = World(tmp_path, server, prompts=20)
    cli = Cli(world, starter, "--budget-usd=0.05")
    assert cli.signal_after(6, 0.005, number) == 130
    result = cli.result
    assert result["stopped"] == "interrupted"
    assert result["left"] > 0
    # Every request was waited for, kept and written into the table: none is lost.
    made = sum(world.asked().values())
    assert sum(result["answered"].values()) == made == len(server.bill)
    assert result["spending"]["lost_calls"] == 0
    assert world.counted_usd() == world.billed_usd()
    assert world.outcomes.height == 20 + made
    resumed = cli.finish()
    assert resumed["stopped"] == "done"
    assert set(world.asked().values()) == {1}
    assert world.outcomes.height == 60
