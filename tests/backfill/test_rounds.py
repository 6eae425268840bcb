"""Backfill in rounds: what is asked is what teaches most, and what came in decides what is next."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.backfill.world import World, echo
from xrouter_lg.backfill import Backfill, Grader, Runner
from xrouter_lg.backfill.selection import Worklist
from xrouter_lg.cli.backfill import app
from xrouter_lg.testing import FakeModel, FakeOpenAIServer
from xrouter_lg.value.purchases import next_round

KINDS = ("sum of integers", "rhyme about spring", "capital of a country")
EACH = 60


def knows(kinds: tuple[int, ...]) -> Any:
    """A model that answers these kinds rightly."""

    def reply(body: dict[str, Any]) -> str:
        asked = str(body["messages"][-1]["content"])
        return echo(body) if any(KINDS[kind] in asked for kind in kinds) else "I do not know"

    return reply


@pytest.fixture
def server() -> Iterator[FakeOpenAIServer]:
    found = [
        FakeModel(name="small", reply=knows((0, 1)), latency_s=0.005),
        FakeModel(name="medium", reply=knows((0, 2)), latency_s=0.005),
        FakeModel(name="large", reply=knows((0, 1, 2))),
    ]
    with FakeOpenAIServer(found) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, server: FakeOpenAIServer) -> World:
    """Three kinds of request, all answered by ``large``; of ``small`` and ``medium`` the table
    knows how they do at the first kind and the second."""
    world = World(tmp_path, server)
    prompts = [
        world.prompt(i, prompt=f"The {KINDS[i % 3]}, please, and say {i}") for i in range(3 * EACH)
    ]
    key = ("source", "task", "prompt_id")
    outcomes = []
    for i, prompt in enumerate(prompts):
        right = {"large": 1.0}
        if i % 3 < 2 and i < 2 * EACH:
            right |= {"small": 1.0, "medium": float(i % 3 == 0)}
        for model, score in right.items():
            cost = {"small": 2e-5, "medium": 6e-5, "large": 2e-4}[model]
            row = {name: prompt[name] for name in key} | {"model": model, "score": score}
            outcomes.append(row | {"cost_usd": cost, "response": "traced", "scored_by": "exact"})
    world.write_table(prompts, outcomes)
    return world


def kinds_asked(world: World) -> Counter[int]:
    return Counter(
        next(i for i, kind in enumerate(KINDS) if kind in question)
        for _, question in world.asked().elements()
    )


async def run(world: World, budget: str = "0.004", **options: Any) -> Any:
    grader = Grader.from_yaml(world.verifiers("exact"))
    return await world.run(budget, grader=grader, strategy="value", **options)


async def test_money_goes_to_the_kind_that_nobody_knows_the_cards_on(world: World) -> None:
    await run(world, "0.002")
    asked = kinds_asked(world)
    assert asked[2] > 0.6 * asked.total() > 0


async def test_the_second_round_goes_by_what_the_first_has_taught(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xrouter_lg.backfill import choice

    scores: list[int] = []
    real = next_round

    def watched(features: Any, evidence: Any, *args: Any, **options: Any) -> Any:
        scores.append(len(evidence))
        return real(features, evidence, *args, **options)

    monkeypatch.setattr(choice, "next_round", watched)
    tally = await run(world)
    assert len(scores) > 2
    assert (np.diff(scores[: min(len(scores), 4)]) > 0).all(), "each round knows more"
    assert scores[-1] == scores[0] + sum(tally.answered.values())


@pytest.mark.parametrize("budget", ["0.0005", "0.002"])
async def test_all_rounds_together_stay_within_the_budget(world: World, budget: str) -> None:
    await run(world, budget, horizon_requests=1e8)
    assert 0 < world.billed_usd() == world.counted_usd() <= Decimal(budget)
    assert set(world.asked().values()) == {1}


async def test_nothing_is_bought_that_the_traffic_does_not_pay_back(world: World) -> None:
    tally = await run(world, "1", horizon_requests=1e-3)
    assert (tally.stopped, world.server.requests) == ("worth", [])


async def test_it_stops_by_itself_when_enough_is_known(world: World) -> None:
    tally = await run(world, "1", horizon_requests=1e6)
    assert tally.stopped == "worth"
    assert 0 < sum(tally.answered.values()) < 2 * 3 * EACH - 160


async def test_without_a_verifier_there_is_one_round(world: World) -> None:
    with world.open("0.002", strategy="value") as opened:
        assert opened.preview().rounds == 1
        calls = len(opened.work.jobs)
        tally = await opened.run()
    assert tally.calls == calls > 0


async def test_stopped_between_two_answers_it_goes_on_and_pays_nothing_twice(
    world: World,
) -> None:
    def on_start(started: Runner) -> None:
        asyncio.get_running_loop().call_later(0.05, started.stop)

    first = await run(world, "0.1", on_start=on_start)
    assert first.stopped == "interrupted"
    before = world.asked().total()
    await run(world, "0.1")
    assert set(world.asked().values()) == {1}
    assert before < world.asked().total()
    assert world.billed_usd() <= Decimal("0.1")


async def test_no_more_prompts_are_asked_about_than_the_limit_says(world: World) -> None:
    await run(world, "1", limit=4)
    assert 0 < len({question for _, question in world.asked()}) <= 4


def test_a_dry_run_shows_the_first_round_its_price_and_what_it_is_worth(world: World) -> None:
    options = [f"--pool={world.pool_file}", "--budget-usd=0.004", "--dry-run"]
    options.append(f"--verifiers={world.verifiers('exact')}")
    said = CliRunner().invoke(app, [str(world.folder), *options], catch_exceptions=False).stdout
    assert "first of about 6 rounds" in " ".join(said.split())
    assert "score points a request, worth $" in " ".join(said.split())
    assert world.server.requests == []


async def test_the_first_round_takes_its_share_of_the_money(world: World) -> None:
    grader = Grader.from_yaml(world.verifiers("exact"))
    with world.open("0.003", grader=grader, strategy="value", rounds=3) as opened:
        first: Worklist = opened.work
        assert isinstance(opened, Backfill)
        assert 0 < sum(job.mean_usd or 0.0 for job in first.jobs) <= 0.0015
        assert first.worth_usd is not None and first.worth_usd > 0.001


async def test_of_a_handful_of_prompts_every_answer_is_asked(
    tmp_path: Path, server: FakeOpenAIServer
) -> None:
    few = World(tmp_path, server)
    prompts = [few.prompt(i, prompt=f"The {KINDS[i % 3]}, and say {i}") for i in range(4)]
    key = ("source", "task", "prompt_id")
    said = {"model": "large", "score": 1.0, "cost_usd": 2e-4, "response": "traced"}
    few.write_table(prompts, [{name: one[name] for name in key} | said for one in prompts])
    tally = await run(few)
    assert sum(tally.answered.values()) == 8
    assert few.asked().total() == 8
