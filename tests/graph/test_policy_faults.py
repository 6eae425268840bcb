"""Whatever a policy does wrong costs a fallback, never the request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.support.apps import PRICES, Says, app, ask, card, pool, record, usd
from xrouter_lg import Action, PromptedPolicy, Proposal, XRouterNode
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    Fault,
    FaultPlan,
    Reply,
    ScriptedChatModel,
    ToolCall,
    auth_error,
    content_filter,
    empty,
    hang,
    malformed_json,
    rate_limit,
    server_error,
)


def _raises(error: BaseException) -> Callable[..., Any]:
    def propose(request: Any, candidates: Any) -> Proposal:
        raise error

    return propose


def _says(proposal: Any) -> Callable[..., Any]:
    return lambda request, candidates: proposal


def _call(name: str = "large", **options: Any) -> Action:
    return Action("call", card=name, **options)


GOOD = {"small": 0.5, "large": 0.5}
NONSENSE: dict[str, Callable[..., Any]] = {
    "raises": _raises(RuntimeError("boom")),
    "raises KeyError": _raises(KeyError("x")),
    "raises TimeoutError of its own": _raises(TimeoutError("mine")),
    "leaks a cancellation": _raises(asyncio.CancelledError()),
    "returns None": _says(None),
    "returns a name": _says("large"),
    "returns a dict": _says({"large": 1.0}),
    "unknown card": _says(Proposal({"huge": 1.0})),
    "NaN": _says(Proposal({"large": float("nan")})),
    "infinite": _says(Proposal({"large": float("inf")})),
    "negative": _says(Proposal({"large": -0.1})),
    "above one": _says(Proposal({"large": 1.5})),
    "text for a number": _says(Proposal({"large": "1.0"})),  # type: ignore[dict-item]
    "a bool for a number": _says(Proposal({"large": True})),
    "None for a number": _says(Proposal({"large": None})),  # type: ignore[dict-item]
    "no mapping": _says(Proposal(None)),  # type: ignore[arg-type]
    "nothing at all": _says(Proposal({})),
    "only zeros": _says(Proposal({"small": 0.0, "large": 0.0})),
    "too many calls": _says(Proposal(GOOD, (_call(),) * 5)),
    "call of an unknown card": _says(Proposal(GOOD, (_call("huge"),))),
    "call of nothing": _says(Proposal(GOOD, (Action("call"),))),
    "mixed actions": _says(Proposal(GOOD, (_call(), Action("answer", text="x")))),
    "two answers": _says(Proposal(GOOD, (Action("answer", text="x"),) * 2)),
    "empty answer": _says(Proposal(GOOD, (Action("answer", text=" "),))),
    "answer of nothing": _says(Proposal(GOOD, (Action("answer"),))),
    "selects what is not there": _says(Proposal(GOOD, (Action("select", call_id="c1"),))),
    "selects nothing": _says(Proposal(GOOD, (Action("select"),))),
    "unknown kind of action": _says(Proposal(GOOD, (Action("sing"),))),  # type: ignore[arg-type]
    "an action that is none": _says(Proposal(GOOD, ("large",))),  # type: ignore[arg-type]
    "max_tokens zero": _says(Proposal(GOOD, (_call(max_tokens=0),))),
    "max_tokens half": _says(Proposal(GOOD, (_call(max_tokens=10.5),))),
    "max_tokens NaN": _says(Proposal(GOOD, (_call(max_tokens=float("nan")),))),
    "temperature NaN": _says(Proposal(GOOD, (_call(temperature=float("nan")),))),
    "temperature three": _says(Proposal(GOOD, (_call(temperature=3.0),))),
    "hint no text": _says(Proposal(GOOD, (_call(hint=7),))),
    "propensity zero": _says(Proposal(GOOD, (_call(),), propensity=0.0)),
    "propensity two": _says(Proposal(GOOD, (_call(),), propensity=2.0)),
    "propensity NaN": _says(Proposal(GOOD, (_call(),), propensity=float("nan"))),
    "propensity text": _says(Proposal(GOOD, (_call(),), propensity="x")),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("propose", NONSENSE.values(), ids=NONSENSE)
async def test_the_default_card_answers_and_the_reason_is_recorded(
    fake: FakeOpenAIServer, propose: Callable[..., Any]
) -> None:
    node = XRouterNode(pool(fake, "large", "small", default="small"), policy=Says(propose))
    found = record(await app(node).ainvoke(ask()))
    assert found["route"] == "small"
    assert [f["error"] for f in found["fallbacks"]] == ["policy"]
    assert found["fallbacks"][0]["detail"] == found["decisions"][0]["policy_error"] != ""


async def test_a_policy_that_hangs_costs_its_deadline_not_the_request(
    fake: FakeOpenAIServer,
) -> None:
    node = XRouterNode(pool(fake), policy=Says(lambda r, c: asyncio.sleep(3600), timeout_s=0.2))
    found = record(await app(node).ainvoke(ask()))
    assert "no proposal within 0.2 s" in found["fallbacks"][0]["detail"]


async def test_cancelling_a_request_while_the_policy_thinks_cancels_it(
    fake: FakeOpenAIServer,
) -> None:
    node = XRouterNode(pool(fake), policy=Says(lambda r, c: asyncio.sleep(60)))
    task = asyncio.create_task(app(node).ainvoke(ask()))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not fake.requests


@pytest.mark.parametrize("timeout", ["soon", None, []])
async def test_a_deadline_that_is_no_number_is_a_failed_policy(
    fake: FakeOpenAIServer, timeout: Any
) -> None:
    node = XRouterNode(pool(fake), policy=Says(_says(Proposal(GOOD)), timeout_s=timeout))
    assert record(await app(node).ainvoke(ask()))["route"] == "small"


async def test_the_cheapest_card_stands_in_for_a_default_that_is_no_candidate(
    fake: FakeOpenAIServer,
) -> None:
    node = XRouterNode(
        pool(fake, "large", "medium", "small", default="large"), policy=Says(_says(None))
    )
    found = record(await app(node).ainvoke(ask(), {"configurable": {"deny": ["large"]}}))
    assert found["route"] == "small"


async def test_failover_goes_on_behind_a_failed_policy(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    found = record(await app(XRouterNode(pool(fake), policy=Says(_says(None)))).ainvoke(ask()))
    assert [f["error"] for f in found["fallbacks"]] == ["policy", "server"]
    assert found["route"] == "large"


async def test_a_failed_policy_is_not_explored(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake), policy=Says(_says(None)), exploration=1.0)
    routes = {record(await app(node).ainvoke(ask()))["route"] for _ in range(12)}
    assert routes == {"small"}


# A router model over HTTP.

ROUTER_FAULTS: dict[str, Fault] = {
    "hang": hang(),
    "429": rate_limit(),
    "500": server_error(),
    "empty": empty(),
    "malformed": malformed_json(),
    "auth": auth_error(),
    "filtered": content_filter(0),
}
GARBAGE: dict[str, str | Reply] = {
    "unknown tool": Reply(tool_calls=[ToolCall("call_huge", {})]),
    "broken arguments": Reply(tool_calls=[ToolCall("call_large", '{"hint": ')]),
    "arguments that are a list": Reply(tool_calls=[ToolCall("call_large", "[1]")]),
    "selects too early": Reply(tool_calls=[ToolCall("select_response", {"call_id": "c1"})]),
    "too many calls": Reply(tool_calls=[ToolCall("call_large", {}, id=f"t{i}") for i in range(9)]),
    "only a thought": "<think>hm</think>",
    "white space": "  \n ",
}


def prompted(fake: FakeOpenAIServer, **options: Any) -> PromptedPolicy:
    return PromptedPolicy(card(fake, "guide", timeout_s=0.3), **options)


@pytest.mark.parametrize("fault", ROUTER_FAULTS.values(), ids=ROUTER_FAULTS)
async def test_a_router_model_that_fails_costs_a_fallback(
    fake: FakeOpenAIServer, fault: Fault
) -> None:
    fake.faults = FaultPlan({"guide": fault})
    found = record(await app(XRouterNode(pool(fake), policy=prompted(fake))).ainvoke(ask()))
    assert (found["route"], found["fallbacks"][0]["error"]) == ("small", "policy")


@pytest.mark.parametrize("reply", GARBAGE.values(), ids=GARBAGE)
async def test_a_router_model_that_talks_nonsense_costs_a_fallback(
    fake: FakeOpenAIServer, reply: str | Reply
) -> None:
    fake.add_model(FakeModel(name="guide", reply=reply))
    found = record(await app(XRouterNode(pool(fake), policy=prompted(fake))).ainvoke(ask()))
    assert (found["route"], found["fallbacks"][0]["error"]) == ("small", "policy")


@pytest.mark.parametrize("reply", GARBAGE.values(), ids=GARBAGE)
async def test_what_nonsense_has_cost_stays_on_the_bill(
    fake: FakeOpenAIServer, reply: str | Reply
) -> None:
    fake.add_model(FakeModel(name="guide", reply=reply))
    found = record(await app(XRouterNode(pool(fake), policy=prompted(fake))).ainvoke(ask()))
    cost = found["router_cost_usd"]
    assert [c["kind"] for c in found["charges"]] == ["router", "worker"]
    assert cost is None or Decimal(cost) == usd(fake.bill.of("guide")[0].usage, PRICES["guide"])


@pytest.mark.parametrize("fault", ROUTER_FAULTS.values(), ids=ROUTER_FAULTS)
async def test_every_request_of_a_failing_router_model_has_a_charge(
    fake: FakeOpenAIServer, fault: Fault
) -> None:
    fake.faults = FaultPlan({"guide": fault})
    found = record(await app(XRouterNode(pool(fake), policy=prompted(fake))).ainvoke(ask()))
    assert sum(c["kind"] == "router" for c in found["charges"]) == fake.calls["guide"]


async def test_a_router_model_stopped_by_the_deadline_is_charged_as_unknown(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan({"guide": hang()})
    policy = PromptedPolicy(card(fake, "guide", timeout_s=30.0), timeout_s=0.2)
    found = record(await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask()))
    (charge,) = [c for c in found["charges"] if c["kind"] == "router"]
    assert (charge["error"], charge["cost_usd"], found["cost_usd"]) == ("cancelled", None, None)


async def test_a_router_model_that_can_not_bind_tools_costs_a_fallback(
    fake: FakeOpenAIServer,
) -> None:
    class Plain(ScriptedChatModel):
        def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError

    node = XRouterNode(pool(fake), policy=Plain(script=["x"]))
    assert record(await app(node).ainvoke(ask()))["fallbacks"][0]["error"] == "policy"


async def test_a_router_model_that_fails_on_a_later_turn_leaves_the_best_answer(
    fake: FakeOpenAIServer,
) -> None:
    replies: list[Any] = [
        Reply(tool_calls=[ToolCall("call_large", {})]),
        Reply(tool_calls=[ToolCall("call_huge", {})]),
    ]
    fake.add_model(FakeModel(name="guide", reply=lambda body: replies.pop(0)))
    node = XRouterNode(pool(fake), policy=prompted(fake), max_turns=3)
    found = record(await app(node).ainvoke(ask()))
    assert found["route"] == "large"
    assert found["reason"] == "the policy failed; the best answer so far"
