"""What speaks against a card, what does not, and who is asked meanwhile."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.support.apps import app, ask, card, pool, record
from tests.support.providers import Answer, keys, loopback, plain_answer
from xrouter_lg import Budget, ModelPool, Router, XRouterNode
from xrouter_lg.calls.breaker import Breaker
from xrouter_lg.errors import AllCandidatesFailedError, BudgetExceededError
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    content_filter,
    first,
    html_page,
    rate_limit,
    server_error,
)

ASK = {"messages": [HumanMessage("What is the capital of France?")]}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xrouter_lg.calls.attempt._BACKOFF_S", 0.001)


# --- what opens a circuit ------------------------------------------------------------------


async def test_a_model_that_no_longer_exists_is_left_alone(fake: FakeOpenAIServer) -> None:
    gone = card(fake, "small", model="retired")
    graph = app(XRouterNode(ModelPool([gone, card(fake, "large")])))
    for _ in range(8):
        found = record(await graph.ainvoke(ask()))
        assert found["route"] == "large"
    assert len([it for it in fake.requests if it.model == "retired"]) == 5
    assert found["removed"] == {"small": "circuit open after repeated failures"}


@pytest.mark.parametrize("kind", ["empty", "malformed"])
async def test_a_card_that_never_answers_in_full_is_left_alone(
    fake: FakeOpenAIServer, kind: str
) -> None:
    if kind == "empty":
        fake.add_model(FakeModel(name="small", reply=""))
    else:
        fake.faults = FaultPlan({"small": html_page(200)})
    graph = app(XRouterNode(pool(fake, max_retries=1)))
    for _ in range(8):
        assert record(await graph.ainvoke(ask()))["route"] == "large"
    assert fake.calls["small"] == 5


async def test_one_odd_request_opens_no_circuit(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": first(6, html_page(200))})
    graph = app(XRouterNode(pool(fake, max_retries=5)))
    assert record(await graph.ainvoke(ask()))["route"] == "large"
    assert record(await graph.ainvoke(ask()))["route"] == "small"


async def test_a_content_filter_speaks_of_the_request_not_of_the_card(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan({"small": content_filter(0)})
    graph = app(XRouterNode(pool(fake)))
    for _ in range(7):
        await graph.ainvoke(ask())
    assert fake.calls["small"] == 7


# --- the probe -----------------------------------------------------------------------------


async def test_of_many_requests_one_is_the_probe_and_the_others_go_elsewhere(
    fake: FakeOpenAIServer,
) -> None:
    now = [0.0]
    router = Router(pool(fake))
    broken = Breaker(threshold=1, cooldown_s=30.0, clock=lambda: now[0])
    router.workers.cards._breakers["worker:small"] = broken
    broken.failure()
    now[0] = 31.0
    fake.faults = FaultPlan({"small": server_error()})
    graph = app(XRouterNode(router))
    states = await asyncio.gather(*(graph.ainvoke(ask()) for _ in range(8)))
    assert {record(state)["route"] for state in states} == {"large"}
    assert fake.calls["small"] == 1


# --- a pause that a provider asks for ------------------------------------------------------


async def test_the_only_card_is_waited_for_as_long_as_an_attempt_may_take(
    fake: FakeOpenAIServer, slept: list[float]
) -> None:
    fake.faults = FaultPlan({"small": first(1, rate_limit(7))})
    graph = app(XRouterNode(pool(fake, "small", max_retries=1, timeout_s=10.0)))
    assert record(await graph.ainvoke(ask()))["route"] == "small"
    assert slept == [7]


async def test_a_pause_beyond_the_requests_own_time_is_not_waited_for(
    fake: FakeOpenAIServer, slept: list[float]
) -> None:
    fake.faults = FaultPlan({"small": rate_limit(7)})
    graph = app(XRouterNode(pool(fake, "small", max_retries=4, timeout_s=10.0)))
    with pytest.raises(AllCandidatesFailedError, match="rate_limit"):
        await graph.ainvoke(ask())
    assert slept == [7]  # a second such pause would be too long


async def test_while_another_card_can_be_asked_nobody_waits(
    fake: FakeOpenAIServer, slept: list[float]
) -> None:
    fake.faults = FaultPlan({"small": rate_limit(7)})
    graph = app(XRouterNode(pool(fake, max_retries=1)))
    assert record(await graph.ainvoke(ask()))["route"] == "large"
    assert slept == []


async def test_the_last_card_left_is_waited_for(fake: FakeOpenAIServer, slept: list[float]) -> None:
    fake.faults = FaultPlan({"small": server_error(), "large": first(1, rate_limit(7))})
    cards = [card(fake, "small"), card(fake, "large", max_retries=1)]
    graph = app(XRouterNode(ModelPool(cards)))
    assert record(await graph.ainvoke(ask()))["route"] == "large"
    assert slept == [7]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of a second or more, which nobody here waits for."""
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(delay: float, *args: Any) -> Any:
        if delay >= 1:
            pauses.append(delay)
            delay = 0
        return await real(delay, *args)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    return pauses


# --- overruns ------------------------------------------------------------------------------


def test_a_card_that_passes_its_limit_is_marked_and_reserved_for_as_it_was_seen(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        status, said, *_ = plain_answer(path, body)
        said["usage"] = {"prompt_tokens": 10, "completion_tokens": 2000, "total_tokens": 2010}
        return status, said

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        router = Router(
            ModelPool([server.card("openai:gpt-x")]),
            budget=Budget(per_request_usd="0.03", on_exceeded="error"),
        )
        node = XRouterNode(router)
        charge = record(node.invoke(ASK))["charges"][0]
        assert Decimal(charge["overrun_usd"]) > Decimal("0.014")
        assert Decimal(charge["cost_usd"]) == Decimal("0.02001")
        factor = router.workers.cards.overruns["one"]
        assert 3 < factor < 5
        assert "more than" in caplog.text
        charge = record(node.invoke(ASK))["charges"][0]
        assert charge["overrun_usd"] is None  # it was reckoned with
        with pytest.raises(Exception, match=r"budget|left"):
            XRouterNode(router).invoke(ASK, {"configurable": {"max_cost_usd": 0.012}})
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"n": 4},
        {"extra_body": {"n": 4}},
        {"response_format": {"type": "json_object", "schema": {"text": "x" * 20_000}}},
    ],
    ids=["n", "extra_body", "schema"],
)
def test_what_the_app_bound_counts_in_the_worst_case(
    fake: FakeOpenAIServer, options: dict[str, Any]
) -> None:
    chosen = card(fake, "small", price={"input": 1, "output": 10}, max_output_tokens=500)
    budget = Budget(per_request_usd="0.008", on_exceeded="error")
    node = XRouterNode(ModelPool([chosen]), budget=budget)
    node.invoke(ASK)
    with pytest.raises(BudgetExceededError):
        node.bind(**options).invoke(ASK)
    with pytest.raises(BudgetExceededError):
        node.bind_tools([], **options).invoke(ASK)
