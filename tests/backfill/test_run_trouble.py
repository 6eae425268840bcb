"""When things go wrong in a backfill: pauses, dead cards, cut answers, a full disk, a stop."""

from __future__ import annotations

import asyncio
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.backfill.world import World, models
from xrouter_lg.backfill import Backfill, BackfillError, Runner
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    always,
    faults,
    first,
)


async def test_a_rate_limit_is_waited_out_and_costs_no_answer(
    world: World, server: FakeOpenAIServer
) -> None:
    server.faults = FaultPlan({"small": first(6, faults.rate_limit(retry_after=0.05))})
    tally = await world.run(conditions={"concurrency": 4}, setup=quick_breakers)
    assert tally.answered == {"small": 12, "medium": 12}
    assert not tally.failed
    assert not tally.gave_up


async def test_a_longer_pause_than_a_worker_waits_is_kept_while_others_go_on(
    world: World, server: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrouter_lg.calls.attempt.RETRY_AFTER_LIMIT_S", 0.1)
    server.faults = FaultPlan({"small": [faults.rate_limit(retry_after=0.6)]})
    tally = await world.run(conditions={"concurrency": 1})
    assert tally.answered == {"small": 12, "medium": 12}
    order = [request.model for request in server.requests]
    # The first small call was refused; it came back after mediums had gone on.
    start = order.index("small")
    assert order[start + 1] == "medium"


def quick_breakers(opened: Backfill) -> None:
    for name in ("small", "medium", "large"):
        opened.workers.cards.breaker(f"worker:{name}").cooldown_s = 0.05


async def test_a_dead_card_is_given_up_on_and_the_others_go_on(
    world: World, server: FakeOpenAIServer
) -> None:
    world.write_pool(small={"base_url": "http://127.0.0.1:9/v1", "max_retries": 0})
    tally = await world.run(setup=quick_breakers)
    assert tally.stopped == "cards"
    assert "kept failing: connection" in tally.gave_up["small"]
    assert tally.answered == {"medium": 12}
    assert tally.left == 12 - sum(
        n for (card, _), n in tally.failed.items() if card == "small"
    ) - sum(n for (card, _), n in tally.failed.items() if card != "small")
    assert Counter(world.outcomes["model"]) == {"medium": 12, "large": 12}
    # A connection that was refused has cost nothing, and the next run asks again.
    assert world.counted_usd() == world.billed_usd()
    world.write_pool()
    assert (await world.run()).answered == {"small": 12}


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (faults.auth_error(), "auth"),
        (faults.rate_limit(insufficient_quota=True), "quota"),
        (faults.rate_limit(retry_after=3600), "left alone for 3600 s"),
        (faults.bad_request("model_not_found"), "not_found"),
        (faults.bad_request(), "refuses every call"),
    ],
    ids=["auth", "quota", "long pause", "no such model", "bad request"],
)
async def test_a_card_that_wont_answer_anybody_is_given_up_on(
    world: World, server: FakeOpenAIServer, fault: Any, why: str
) -> None:
    server.faults = FaultPlan({"small": always(fault)})
    tally = await world.run(conditions={"concurrency": 1})
    assert why in tally.gave_up["small"]
    assert tally.answered == {"medium": 12}
    assert world.asked().total() < 12 + 12
    # Nothing of it is kept: it was the card's fault, not the prompts'.
    server.faults = FaultPlan()
    assert (await world.run()).answered == {"small": 12}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (faults.empty(), "empty"),
        (faults.truncated(keep=0), "truncated"),
        (faults.content_filter(keep=0), "content_filter"),
        (faults.malformed_json(), "malformed"),
        (faults.bad_request("context_length_exceeded"), "context_length"),
    ],
    ids=["empty", "truncated", "filtered", "malformed", "too long"],
)
async def test_what_would_fail_again_is_kept_and_not_paid_for_again(
    world: World, server: FakeOpenAIServer, fault: Any, error: str
) -> None:
    world.write_table([world.prompt(0)])
    world.write_pool(small={"max_retries": 1})
    server.faults = FaultPlan({"small": always(fault)})
    tally = await world.run(setup=quick_breakers)
    assert tally.failed == {("small", error): 1}
    row = world.outcome("p0", "small")
    assert (row["score"], row["response"]) == (None, None)
    assert row["scored_by"].startswith(f"unscored: the call failed: {error}")
    asked = len(server.requests)
    assert (await world.run()).calls == 0
    assert len(server.requests) == asked
    server.faults = FaultPlan()
    assert (await world.run(retry_failed=True)).answered == {"small": 1}
    assert world.outcome("p0", "small")["response"] == "0"


async def test_a_timeout_is_not_kept_and_is_asked_again_by_the_next_run(
    world: World, server: FakeOpenAIServer
) -> None:
    world.write_table([world.prompt(0)])
    world.write_pool(small={"max_retries": 0, "timeout_s": 0.2})
    server.faults = FaultPlan({"small": always(faults.hang(5))})
    tally = await world.run()
    assert tally.failed == {("small", "timeout"): 1}
    assert world.outcomes.filter(pl.col("model") == "small").height == 0
    server.faults = FaultPlan()
    world.write_pool()
    assert (await world.run()).answered == {"small": 1}


async def test_a_cut_answer_is_kept_marked_and_asked_again_under_a_longer_limit(
    world: World, server: FakeOpenAIServer
) -> None:
    server.add_model(FakeModel(name="medium", reply="one two three four five six seven eight"))
    world.write_table([world.prompt(0)])
    tally = await world.run(cards=["medium"], max_tokens=3)
    assert tally.cut == 1
    short = world.outcome("p0", "medium")["response"]
    world.write_table([world.prompt(0)])
    await world.run(cards=["medium"], max_tokens=30)
    long = world.outcome("p0", "medium")["response"]
    assert len(server.requests) == 2
    assert long.startswith(short) and len(long) > len(short)
    world.write_table([world.prompt(0)])
    await world.run(cards=["medium"], max_tokens=35)
    assert len(server.requests) == 2, "an answer that ended by itself fits under a longer limit"


async def test_a_full_disk_stops_the_run_before_a_call_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with world.open() as opened:
        # SQLite's own limit of pages acts as a disk that is full.
        connection = opened.cache._connection
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {(pages or 0) + 3}")
        connection.rollback()
        with pytest.raises(BackfillError, match="disk is full"):
            await opened.run()
    # Each request that was made is in the journal: as an answer, or as an open intent.
    (intents,) = world.journal("select count(*) from intents")[0]
    assert len(world.server.requests) <= intents


async def test_stopping_keeps_what_is_in_flight(tmp_path: Path, server: FakeOpenAIServer) -> None:
    for model in models(latency_s=0.02):
        server.add_model(model)
    world = World(tmp_path, server, prompts=30)
    runner: list[Runner] = []

    def on_start(started: Runner) -> None:
        runner.append(started)
        asyncio.get_running_loop().call_later(0.1, started.stop)

    tally = await world.run(on_start=on_start)
    assert tally.stopped == "interrupted"
    assert 0 < len(server.requests) == sum(tally.answered.values()) < 60
    assert world.outcomes.height == 30 + len(server.requests)


async def test_calls_that_are_dropped_count_with_their_worst_case(
    tmp_path: Path, server: FakeOpenAIServer
) -> None:
    for model in models(latency_s=30):
        server.add_model(model)
    world = World(tmp_path, server, prompts=3)
    task = asyncio.create_task(world.run(conditions={"concurrency": 2}))
    while len(server.requests) < 2:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    charges = world.charges()
    assert [charge["error"] for charge in charges] == ["cancelled"] * 2
    assert world.counted_usd() == sum(Decimal(charge["held_usd"]) for charge in charges) > 0
    with world.open() as opened:
        assert opened.spending().lost == 0
