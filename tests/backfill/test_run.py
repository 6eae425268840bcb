"""Backfill against a fake provider: who is asked, and what."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal

import pytest

from tests.backfill.world import World
from xrouter_lg.backfill import BackfillError, Grader
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    Reply,
    ToolCall,
)


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
