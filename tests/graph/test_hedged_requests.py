"""A request that is slow to its first token is asked of a second card; one answer, both on the
bill."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatResult

from tests.support.apps import app, ask, options, pool, prefers, record, true_cost
from xrouter_lg import Budget, ChatXRouter, ModelCard, ModelPool, Recorder, XRouterNode
from xrouter_lg.calls.worker.hedge import Pace
from xrouter_lg.errors import PoolError, RequestOptionError
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan
from xrouter_lg.testing.faults import hang, server_error, slow_stream

SOON = 0.15


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path / "traces.db") as opened:
        yield opened


def node(fake: FakeOpenAIServer, *names: str, **more: Any) -> XRouterNode:
    names = names or ("small", "large")
    return XRouterNode(pool(fake, *names), policy=prefers(*names), **more)


def asked_of(fake: FakeOpenAIServer) -> list[str]:
    return [request.model for request in fake.requests]


async def billed(fake: FakeOpenAIServer, lines: int) -> None:
    while len(fake.bill) < lines:
        await asyncio.sleep(0.01)


async def test_a_slow_card_costs_a_second_call_not_the_wait(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": hang()})
    built = app(node(fake, traces=recorder))
    told = record(await built.ainvoke(ask(), options(hedge_after_s=SOON)))
    assert told["route"] == "large" and told["error"] is None
    assert [(f["card"], f["error"]) for f in told["fallbacks"]] == [("small", "slow")]
    assert "small was slow" in told["reason"]
    charges = {charge["card"]: charge for charge in told["charges"]}
    assert charges["small"]["error"] == "cancelled" and charges["small"]["cost_usd"] is None
    assert Decimal(charges["large"]["cost_usd"]) == true_cost(fake)
    assert recorder.flush(20)
    [row] = recorder.store.routes()
    assert row.record.charges == told["charges"]


async def test_a_card_that_answers_in_time_is_asked_alone(fake: FakeOpenAIServer) -> None:
    told = record(await app(node(fake)).ainvoke(ask(), options(hedge_after_s=30)))
    assert (told["route"], told["fallbacks"], asked_of(fake)) == ("small", [], ["small"])


async def test_who_is_slow_and_still_first_has_the_answer(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": slow_stream(SOON), "large": hang()})
    told = record(await app(node(fake)).ainvoke(ask(), options(hedge_after_s=SOON)))
    assert (told["route"], told["fallbacks"]) == ("small", [])
    assert sorted(asked_of(fake)) == ["large", "small"]
    assert [c["error"] for c in told["charges"] if c["card"] == "large"] == ["cancelled"]


async def test_the_losers_connection_is_closed(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": slow_stream(1.0)})
    await app(node(fake)).ainvoke(ask(), options(hedge_after_s=SOON))
    await billed(fake, 2)
    assert {line.model: line.delivered for line in fake.bill} == {"small": False, "large": True}


async def test_a_second_that_fails_leaves_the_first_its_time(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": slow_stream(SOON), "large": server_error()})
    told = record(await app(node(fake)).ainvoke(ask(), options(hedge_after_s=SOON)))
    assert told["route"] == "small"
    assert [(f["card"], f["error"]) for f in told["fallbacks"]] == [("large", "server")]


async def test_when_both_fail_the_next_one_is_asked(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": hang(3 * SOON), "medium": server_error()})
    slow = pool(fake, "small", "medium", "large", timeout_s=2 * SOON)
    routed = XRouterNode(slow, policy=prefers("small", "medium", "large"))
    told = record(await app(routed).ainvoke(ask(), options(hedge_after_s=SOON)))
    assert told["route"] == "large"
    assert {f["card"]: f["error"] for f in told["fallbacks"]} == {
        "small": "timeout",
        "medium": "server",
    }


async def test_a_stream_is_one_cards_text_whoever_is_first(fake: FakeOpenAIServer) -> None:
    for slow, route in (("small", "large"), ("large", "small")):
        fake.faults = FaultPlan({slow: slow_stream(20.0), route: slow_stream(0.05)})
        after = SOON if slow == "small" else 0.001
        parts = app(node(fake)).astream(
            ask(), options(hedge_after_s=after), stream_mode=["messages", "values"]
        )
        taken: list[Any] = [part async for part in parts]
        said = "".join(
            str(part[0].text)
            for mode, part in taken
            if mode == "messages" and type(part[0]).__name__ == "AIMessageChunk"
        )
        answer = taken[-1][1]["messages"][-1]
        assert answer.response_metadata["xrouter"]["route"] == route
        assert said == answer.text


async def test_a_chat_model_streams_the_faster_card(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": hang()})
    chat = ChatXRouter(pool(fake, "small", "large"), policy=prefers("small", "large"))
    whole: Any = None
    async for chunk in chat.astream("Hello?", options(hedge_after_s=SOON)):
        whole = chunk if whole is None else whole + chunk
    assert whole.response_metadata["xrouter"]["route"] == "large"
    alone = await chat.ainvoke("Hello?", options(allow=["large"]))
    assert whole.text and whole.text == alone.text


def test_a_sync_graph_hedges_too(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": hang()})
    assert record(app(node(fake)).invoke(ask(), options(hedge_after_s=SOON)))["route"] == "large"


async def test_a_budget_that_holds_one_call_hedges_nothing(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": slow_stream(SOON)})
    tight = node(fake, budget=Budget(per_request_usd="0.125"))
    told = record(await app(tight).ainvoke(ask(), options(hedge_after_s=SOON)))
    assert (told["route"], asked_of(fake)) == ("small", ["small"])


async def test_a_hedged_request_stays_below_a_budget_that_holds_both(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan({"small": hang()})
    routed = node(fake, budget=Budget(per_request_usd="0.5"))
    told = record(await app(routed).ainvoke(ask(), options(hedge_after_s=SOON)))
    held = {c["card"]: c["held_usd"] for c in told["charges"]}
    assert told["route"] == "large" and Decimal(held["small"]) > 0


async def test_nothing_is_hedged_in_a_tool_loop(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": slow_stream(SOON)})
    call: Any = {"name": "look_up", "args": {}, "id": "t1", "type": "tool_call"}
    loop = [
        HumanMessage("Hi"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("ok", tool_call_id="t1"),
    ]
    await app(node(fake)).ainvoke({"messages": loop}, options(hedge_after_s=SOON))
    assert asked_of(fake) == ["small"]


class Threaded(GenericFakeChatModel):
    """One of LangChain's own classes without asynchronous methods, that takes its time."""

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        time.sleep(3 * SOON)
        return super()._generate(*args, **kwargs)


async def test_a_model_that_a_cancel_does_not_stop_is_not_hedged(fake: FakeOpenAIServer) -> None:
    slow = ModelCard(name="threaded", model=Threaded(messages=iter([AIMessage("Hi.")])))
    cards = ModelPool([slow, *pool(fake, "large")])
    built = app(XRouterNode(cards, policy=prefers("threaded", "large")))
    assert record(await built.ainvoke(ask(), options(hedge_after_s=SOON)))["route"] == "threaded"
    assert asked_of(fake) == []


async def test_a_request_that_is_cancelled_leaves_both_calls(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": hang(), "large": hang()})
    built = app(node(fake, traces=recorder))
    asked = asyncio.ensure_future(built.ainvoke(ask(), options(hedge_after_s=SOON)))
    while len(fake.requests) < 2:
        await asyncio.sleep(0.01)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert recorder.flush(20)
    [row] = recorder.store.routes()
    assert sorted(charge["card"] for charge in row.record.charges) == ["large", "small"]
    assert row.record.error == "cancelled"


async def test_a_pool_may_hedge_and_a_request_may_say_no(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": slow_stream(SOON)})
    cards = pool(fake, "small", "large", hedge_after_s=SOON)
    built = app(XRouterNode(cards, policy=prefers("small", "large")))
    assert record(await built.ainvoke(ask()))["route"] == "large"
    assert record(await built.ainvoke(ask(), options(hedge_after_s=False)))["route"] == "small"


def test_a_quantile_needs_twenty_answers_of_the_card() -> None:
    pace = Pace()
    for number in range(20):
        assert pace.seconds("p95", "small", True) is None
        pace.note("small", True, float(number))
    assert pace.seconds("p95", "small", True) == 19.0
    assert pace.seconds("p50", "small", True) == 10.0
    assert pace.seconds("p95", "small", False) is None
    assert pace.seconds(2.0, "large", True) == 2.0


@pytest.mark.parametrize("value", [0, -1, "p", "p0", "95", True, "p100", [1]], ids=repr)
async def test_a_hedge_that_is_none_is_refused(fake: FakeOpenAIServer, value: Any) -> None:
    with pytest.raises(RequestOptionError, match="hedge_after_s"):
        await app(node(fake)).ainvoke(ask(), options(hedge_after_s=value))
    with pytest.raises(PoolError, match="hedge_after_s"):
        ModelPool(node(fake).router.pool.cards, hedge_after_s=value)
