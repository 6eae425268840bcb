"""Backfill against a fake provider: what is asked, what is kept, what it costs."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.backfill.world import LIMIT, World, models
from xrouter_lg.backfill import Backfill, BackfillError, Grader, Runner
from xrouter_lg.backfill.results import merged
from xrouter_lg.errors import MissingKeyError
from xrouter_lg.outcomes import OUTCOME_COLUMNS, OutcomeError, OutcomeTable
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    Reply,
    ToolCall,
    always,
    faults,
    first,
)


@pytest.fixture
def server() -> Iterator[FakeOpenAIServer]:
    with FakeOpenAIServer(models()) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path, server: FakeOpenAIServer) -> World:
    return World(tmp_path, server)


async def test_every_prompt_gets_an_outcome_of_every_card(world: World) -> None:
    grader = Grader.from_yaml(world.verifiers("exact"))
    tally = await world.run(grader=grader)
    assert (tally.stopped, tally.left) == ("done", 0)
    assert tally.answered == {"small": 12, "medium": 12}
    assert Counter(world.outcomes["model"]) == {"small": 12, "medium": 12, "large": 12}
    assert set(world.asked().values()) == {1}
    assert [model for model, _ in world.asked()].count("large") == 0, "it had answered already"
    right, wrong = world.outcome("p3", "small"), world.outcome("p11", "small")
    assert (right["score"], right["response"], right["scored_by"]) == (1.0, "3", "exact")
    assert (wrong["score"], wrong["response"]) == (0.0, "I do not know")
    assert right["cost_usd"] == pytest.approx(
        (right["input_tokens"] + 2 * right["output_tokens"]) / 1e6
    )
    assert right["latency_s"] > 0
    assert world.outcome("p3", "large")["response"] == "a traced answer"


async def test_a_second_run_asks_nobody(world: World) -> None:
    await world.run()
    before = len(world.server.requests)
    tally = await world.run()
    assert (tally.calls, len(world.server.requests)) == (0, before)
    assert world.outcomes.height == 36


async def test_a_table_built_anew_is_filled_from_the_cache_for_nothing(world: World) -> None:
    await world.run()
    world.write_table([world.prompt(i) for i in range(12)])
    before = len(world.server.requests)
    with world.open() as opened:
        assert opened.work.cached == {"small": 12, "medium": 12}
        await opened.run()
    assert len(world.server.requests) == before
    assert world.outcomes.height == 36


async def test_two_prompts_with_one_conversation_are_one_call(world: World) -> None:
    twin = world.prompt(1, prompt_id="twin", reference="2")
    world.write_table([world.prompt(1), twin])
    await world.run(grader=Grader.from_yaml(world.verifiers("exact")))
    assert set(world.asked().values()) == {1}
    # Each is scored against its own reference.
    assert world.outcome("p1", "medium")["score"] == 1.0
    assert world.outcome("twin", "medium")["score"] == 0.0


async def test_only_the_named_cards_and_so_many_prompts_are_asked(world: World) -> None:
    await world.run(cards=["medium"], limit=5)
    assert Counter(model for model, _ in world.asked()) == {"medium": 5}
    with pytest.raises(BackfillError, match="'huge', which is no card"):
        world.open(cards=["huge"])


async def test_a_dry_run_asks_nobody_writes_nothing_and_names_the_price(world: World) -> None:
    before = sorted(path.name for path in world.folder.iterdir())
    with world.open(dry_run=True) as opened:
        preview = opened.preview().to_dict()
    assert sorted(path.name for path in world.folder.iterdir()) == before
    assert world.server.requests == []
    small, medium, large = preview["cards"]
    assert (small["ask"], medium["ask"], large["ask"]) == (12, 12, 0)
    assert preview["prompts"] == preview["prompts_within_budget"] == 12
    # At most: a token a byte of prompt and the whole answer limit, as a budget reserves it.
    assert small["worst_usd"] > small["mean_usd"] > 0
    assert medium["worst_usd"] == pytest.approx(3 * small["worst_usd"])
    await world.run(limit=4)
    with world.open(dry_run=True) as opened:
        later = opened.preview().to_dict()
    assert [card["ask"] for card in later["cards"]] == [8, 8, 0]
    assert Decimal(later["spending"]["known_usd"]) == world.billed_usd() > 0


async def test_a_dry_run_knows_what_the_cache_has(world: World) -> None:
    await world.run(limit=4)
    world.write_table([world.prompt(i) for i in range(12)])
    with world.open(dry_run=True) as opened:
        cards = opened.preview().to_dict()["cards"]
    assert [(card["ask"], card["cached"]) for card in cards] == [(8, 4), (8, 4), (0, 0)]


TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look something up",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}},
    },
}


async def test_a_conversation_is_asked_as_it_was(world: World) -> None:
    call = {"name": "look_up", "args": {"word": "pi"}, "id": "c1", "type": "tool_call"}
    messages = [
        {"role": "system", "content": "Answer with a number"},
        {"role": "user", "content": "What is pi?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3.14", "tool_call_id": "c1"},
        {"role": "assistant", "content": "3.14"},
        {"role": "user", "content": "Rounded: 3"},
    ]
    meta = {"messages": messages, "tools": [TOOL], "tool_options": {"tool_choice": "auto"}}
    world.write_table([world.prompt(0, prompt="Rounded: 3", meta=json.dumps(meta), reference="3")])
    await world.run(cards=["medium"])
    (request,) = world.server.requests
    sent = request.body["messages"]
    assert [message["role"] for message in sent] == [message["role"] for message in messages]
    assert [message["content"] or "" for message in sent] == [m["content"] for m in messages]
    assert sent[2]["tool_calls"][0]["function"] == {
        "name": "look_up",
        "arguments": '{"word": "pi"}',
    }
    assert sent[3]["tool_call_id"] == sent[2]["tool_calls"][0]["id"] == "c1"
    assert request.body["tools"] == [TOOL]
    assert request.body["tool_choice"] == "auto"
    assert world.outcome("p0", "medium")["response"] == "3"


async def test_what_cant_be_asked_as_it_was_is_skipped_with_the_reason(world: World) -> None:
    used = [{"role": "tool", "content": "3", "tool_call_id": "c"}, {"role": "user", "content": "1"}]
    long = world.prompt(1, prompt="word " * 2000 + "1")
    tools = world.prompt(2, meta=json.dumps({"tools": [TOOL]}))
    world.write_table([world.prompt(0, meta=json.dumps({"messages": used})), long, tools])
    world.write_pool(small={"context_window": 500, "capabilities": []})
    with world.open() as opened:
        skipped = opened.work.skipped
        await opened.run()
    assert skipped["small"] == {
        "the conversation calls tools, and meta.tools does not hold them": 1,
        "context too long": 1,
        "has no capability 'tools'": 1,
    }
    assert list(skipped["medium"].values()) == [1]
    assert Counter(model for model, _ in world.asked()) == {"medium": 2}


async def test_an_answer_that_calls_a_tool_is_kept_as_json(
    world: World, server: FakeOpenAIServer
) -> None:
    server.add_model(
        FakeModel(name="medium", reply=Reply(None, [ToolCall("look_up", {"word": "pi"})]))
    )
    world.write_table([world.prompt(0, meta=json.dumps({"tools": [TOOL]}))])
    await world.run(cards=["medium"])
    assert json.loads(world.outcome("p0", "medium")["response"]) == [
        {"name": "look_up", "args": {"word": "pi"}}
    ]


# Money


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


# When things go wrong


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


async def test_answers_reach_the_table_while_the_run_goes_on(
    tmp_path: Path, server: FakeOpenAIServer
) -> None:
    for model in models(latency_s=0.05):
        server.add_model(model)
    world = World(tmp_path, server, prompts=40)
    heights: list[int] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(0.02)
            heights.append(world.outcomes.height)

    watcher = asyncio.create_task(watch())
    await world.run(conditions={"write_every_s": 0.2, "concurrency": 4})
    watcher.cancel()
    assert heights == sorted(heights), "never less than before"
    assert [height for height in heights if 40 < height < 120]
    assert world.outcomes.height == 120


async def test_the_apps_traces_do_not_grow_by_a_backfill(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langchain_core.tracers import langchain as tracer

    made: list[Any] = []
    monkeypatch.setattr(tracer.LangChainTracer, "__init__", lambda self, *a, **k: made.append(self))
    monkeypatch.setenv("LANGSMITH_TRACING", "true")
    monkeypatch.setenv("LANGSMITH_API_KEY", "not-a-key")
    await world.run(limit=2)
    assert made == []


async def test_several_answers_make_one_outcome_their_mean(
    world: World, server: FakeOpenAIServer
) -> None:
    said = iter(["7", "wrong", "7", "7"])
    server.add_model(FakeModel(name="medium", reply=lambda body: next(said)))
    world.write_table([world.prompt(7)])
    grader = Grader.from_yaml(world.verifiers("exact"))
    tally = await world.run(
        cards=["medium"], repeat=4, grader=grader, conditions={"concurrency": 1}
    )
    assert tally.answered == {"medium": 4}
    row = world.outcome("p7", "medium")
    assert (row["score"], row["response"], row["scored_by"]) == (0.75, "7", "exact")


async def test_models_that_the_table_calls_otherwise_are_the_same_card(world: World) -> None:
    prompts = [world.prompt(0)]
    row = {"source": "traces", "task": "numbers", "prompt_id": "p0", "score": 1.0, "cost_usd": 1e-3}
    world.write_table(prompts, [{**row, "model": "Large"}, {**row, "model": "gpt-old"}])
    with pytest.raises(BackfillError, match="no model 'gpt'"):
        world.open(rename={"gpt": "small"})
    await world.run(rename={"gpt-old": "small"})
    assert Counter(model for model, _ in world.asked()) == {"medium": 1}
    assert sorted(world.outcomes["model"]) == ["Large", "gpt-old", "medium"]


async def test_columns_and_outcomes_of_others_stay_as_they_were(world: World) -> None:
    path = world.folder / "outcomes.parquet"
    before = pl.read_parquet(path).with_columns(note=pl.lit("mine"))
    before.write_parquet(path)
    await world.run(limit=3)
    after = world.outcomes
    assert after.filter(pl.col("model") == "large").select(before.columns).equals(before)
    assert after.filter(pl.col("model") != "large")["note"].null_count() == 6


async def test_a_broken_table_is_refused_before_anything_is_asked(world: World) -> None:
    path = world.folder / "outcomes.parquet"
    pl.read_parquet(path).with_columns(score=pl.lit(7.0)).write_parquet(path)
    with pytest.raises(OutcomeError, match="outside"):
        world.open()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"repeat": 0}, "repeat is 0"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"strategy": "best"}, "'value' or 'random'"),
        ({"rounds": 0}, "rounds is 0"),
        ({"cost_weight": -1.0}, "cost_weight is -1.0"),
        ({"horizon_requests": 0}, "horizon_requests is 0"),
    ],
)
def test_a_bad_option_is_named(world: World, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(BackfillError, match=said):
        world.open(**changed)


async def test_half_an_emoji_in_an_answer_is_kept_as_a_replacement(
    world: World, server: FakeOpenAIServer
) -> None:
    server.add_model(FakeModel(name="small", reply="cut \ud83d"))
    tally = await world.run(grader=Grader.from_yaml(world.verifiers("exact")))
    assert tally.answered == {"small": 12, "medium": 12}
    assert world.outcome("p3", "small")["response"] == "cut �"


@pytest.mark.parametrize("broken", ["flaw_of", "served_model"])
async def test_an_answer_that_breaks_its_reader_costs_its_own_outcome(
    world: World, server: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    from xrouter_lg.calls import attempt, bill

    module = attempt if broken == "flaw_of" else bill
    read = getattr(module, broken)

    def reader(message: Any) -> Any:
        if message.content == "3":
            raise RuntimeError("nobody thought of this")
        return read(message)

    monkeypatch.setattr(module, broken, reader)
    tally = await world.run()
    assert tally.stopped == "done"
    assert tally.failed == {("small", "malformed"): 1, ("medium", "malformed"): 1}
    assert tally.answered == {"small": 11, "medium": 11}
    row = world.outcome("p3", "medium")
    assert (row["response"], row["score"]) == (None, None)
    assert "nobody thought of this" in row["scored_by"]
    lost = [charge for charge in world.charges() if charge["error"] == "malformed"]
    assert all(charge["held_usd"] is not None for charge in lost), "it may have been paid"


async def test_an_answer_that_cannot_be_kept_is_a_failed_outcome_and_paid_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xrouter_lg.backfill import cache

    keep = cache.to_json

    def keeper(message: Any) -> str:
        if message["data"]["content"] == "5":
            raise OverflowError("too large for this file")
        return keep(message)

    monkeypatch.setattr(cache, "to_json", keeper)
    tally = await world.run()
    assert tally.failed == {("small", "malformed"): 1, ("medium", "malformed"): 1}
    assert "too large for this file" in world.outcome("p5", "small")["scored_by"]
    paid = [charge for charge in world.charges() if charge["cost_usd"] is not None]
    assert len(paid) == 24


def test_what_the_log_knows_of_an_answer_stays_with_it() -> None:
    key = {"source": "traces", "task": "numbers", "prompt_id": "p0"}
    logged = {"propensity": 0.25, "observed_at": 5.0, "feedback": 1.0, "served_model": "large-7"}
    prompt = {**key, "prompt": "Say the number 0"}
    same = {**key, "model": "large", "score": None, "response": "0", **logged}
    other = {**key, "model": "small", "score": None, "response": "zero", **logged}
    table = OutcomeTable.from_rows([same, other], [prompt])
    judged = [{**dict.fromkeys(OUTCOME_COLUMNS), **key, "score": 1.0, "response": "0"}]
    found = merged(
        table, [{**judged[0], "model": "large"}, {**judged[0], "model": "small"}]
    ).outcomes.collect()
    rows = {row["model"]: row for row in found.iter_rows(named=True)}
    assert {name: rows["large"][name] for name in logged} == logged
    # Another answer than the logged one was not drawn, and nobody said anything of it.
    assert {name: rows["small"][name] for name in logged} == dict.fromkeys(logged)
    assert [row["score"] for row in rows.values()] == [1.0, 1.0]
