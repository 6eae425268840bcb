"""What a backfill costs: budgets, the worst case, the journal."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from tests.backfill.world import LIMIT, World, models
from xrouter_lg.backfill import BackfillError
from xrouter_lg.errors import MissingKeyError
from xrouter_lg.testing import (
    FakeOpenAIServer,
    FaultPlan,
    faults,
    first,
)


async def test_the_length_limit_that_the_worst_case_rests_on_is_sent(world: World) -> None:
    await world.run(cards=["small"], limit=1)
    await world.run(cards=["medium"], limit=1, max_tokens=7)
    limits = [
        r.body.get("max_tokens") or r.body["max_completion_tokens"] for r in world.server.requests
    ]
    assert limits == [LIMIT, 7]


@pytest.mark.parametrize("budget", ["0.0008", "0.0011", "0.0015"])
async def test_the_budget_is_never_exceeded_and_used_as_far_as_it_goes(
    tmp_path: Path, server: FakeOpenAIServer, budget: str
) -> None:
    world = World(tmp_path, server, prompts=60)
    tally = await world.run(budget, conditions={"concurrency": 16})
    assert tally.stopped == "budget"
    assert world.billed_usd() == world.counted_usd() <= Decimal(budget)
    # Too little is left for one more prompt at its worst.
    with world.open(budget) as opened:
        worst = sum(job.worst_usd or 0 for job in opened.work.jobs if job.group == 0)
        assert Decimal(budget) - opened.spending().counted < worst
    # Prompts are begun only when all of their cards can be paid for.
    asked = Counter(question for _, question in world.asked())
    assert set(asked.values()) == {2}


async def test_half_a_prompt_is_not_bought(world: World) -> None:
    with world.open() as opened:
        dearest = max(job.worst_usd or Decimal(0) for job in opened.work.jobs)
    tally = await world.run(dearest)
    assert (tally.stopped, tally.unaffordable) == ("budget", 24)
    assert world.server.requests == []


async def test_at_no_moment_more_is_promised_than_there_is(
    tmp_path: Path, server: FakeOpenAIServer
) -> None:
    for model in models(latency_s=0.01):
        server.add_model(model)
    world = World(tmp_path, server, prompts=20)
    with world.open("0.001", conditions={"concurrency": 16}) as opened:
        worst = min(job.worst_usd or Decimal(0) for job in opened.work.jobs)
        seen: list[int] = []
        await opened.run(lambda tally: seen.append(tally.in_flight))
    assert 0 < max(seen) <= Decimal("0.001") / worst


async def test_spending_of_earlier_runs_counts_until_a_new_account_is_opened(world: World) -> None:
    await world.run("0.0009")
    spent = world.counted_usd()
    asked = len(world.server.requests)
    again = await world.run("0.0009")
    assert (again.stopped, again.counted_usd, len(world.server.requests)) == (
        "budget",
        spent,
        asked,
    )
    fresh = await world.run("0.0009", conditions={"new_account": True})
    assert fresh.counted_usd < world.counted_usd() - spent + Decimal("1e-9")
    assert len(world.server.requests) > asked


async def test_a_card_without_a_price_is_refused_unless_accepted(world: World) -> None:
    world.write_pool(small={"price": None})
    with pytest.raises(BackfillError, match=r"price of 'small' is unknown.*--allow-unknown-price"):
        await world.run()
    assert world.server.requests == []
    await world.run(cards=["medium"])  # not asked, no matter
    await world.run(conditions={"allow_unknown_price": True})
    assert world.outcome("p0", "small")["cost_usd"] is None
    with world.open() as opened:
        assert opened.spending().unknown == 12


async def test_a_missing_key_is_found_before_the_first_call(world: World) -> None:
    world.write_pool(small={"api_key_env": "NOT_SET_ANYWHERE"})
    with pytest.raises(MissingKeyError, match="NOT_SET_ANYWHERE"):
        await world.run()
    assert world.server.requests == []


async def test_every_attempt_is_in_the_journal_failed_ones_too(
    world: World, server: FakeOpenAIServer
) -> None:
    server.faults = FaultPlan(
        {"small": first(2, faults.server_error(503)), "medium": [faults.empty()]}
    )
    world.write_pool(small={"max_retries": 2}, medium={"max_retries": 2})
    tally = await world.run(conditions={"concurrency": 1}, limit=1)
    assert tally.stopped == "done"
    assert tally.answered == {"small": 1, "medium": 1}
    charges = world.charges()
    assert {charge["kind"] for charge in charges} == {"backfill"}
    failed = [charge for charge in charges if charge["error"]]
    assert [charge["error"] for charge in failed if charge["card"] == "small"] == ["server"] * 2
    assert [charge["error"] for charge in failed if charge["card"] == "medium"] == ["empty"]
    # A server's error may have cost anything: the budget counts it at its worst.
    mine = [charge for charge in failed if charge["card"] == "small"]
    assert all(c["cost_usd"] is None and Decimal(c["held_usd"]) > 0 for c in mine)
    assert world.counted_usd() > world.billed_usd()
    # No call has cost more than was set aside for it.
    spent = "select i.held_usd, sum(coalesce(c.cost_usd, c.held_usd)) from intents i"
    for held, cost in world.journal(f"{spent} join charges c on c.intent_id = i.id group by i.id"):
        assert cost <= float(held)
    assert tally.counted_usd == world.counted_usd()
