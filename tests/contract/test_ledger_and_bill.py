"""The ledger against the server's own bill: the second opinion, over real HTTP."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from tests.support.apps import PRICES, app, ask, calls, card, pool, record, usd
from xrouter_lg import XRouterNode
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    Fault,
    FaultPlan,
    Reply,
    ToolCall,
    auth_error,
    bad_request,
    content_filter,
    cut_stream,
    empty,
    first,
    hang,
    html_page,
    malformed_json,
    missing_usage,
    rate_limit,
    reset,
    server_error,
    slow_stream,
    stream_error,
    truncated,
    wrong_model,
)

FAULTS: list[Fault] = [
    rate_limit(),
    server_error(),
    auth_error(),
    bad_request(),
    html_page(),
    reset(),
    hang(0.05),
    empty(),
    truncated(2),
    content_filter(2),
    wrong_model("medium"),
    missing_usage(),
    malformed_json(),
    slow_stream(0.01),
    cut_stream(1),
    stream_error(1),
]
NAMES = ("small", "large", "medium")
EACH = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.kind)
REPORTED = {"empty", "truncated", "content_filter", "wrong_model", "slow_stream", None}
"""Faults with which a usage block arrives: the others leave a cost that nobody can know."""


def check(fake: FakeOpenAIServer, charges: list[dict[str, Any]]) -> None:
    """Charge by charge, in the order in which the server saw them."""
    assert [charge["model"] for charge in charges] == [r.model for r in fake.requests]
    billed = {line.number: line for line in fake.bill}
    for request, charge in zip(fake.requests, charges, strict=True):
        line = billed.get(request.number)
        if charge["usage"] is not None:
            assert line is not None
            assert charge["usage"]["input_tokens"] == line.usage.prompt_tokens
            assert charge["usage"]["output_tokens"] == line.usage.completion_tokens
        if request.fault in REPORTED:
            assert line is not None
            assert Decimal(charge["cost_usd"]) == usd(line.usage, PRICES[line.served_model])
        elif line is not None:
            assert charge["cost_usd"] is None
        else:
            assert charge["cost_usd"] in (None, "0")


@EACH
async def test_a_workers_charges_are_the_servers_bill(fake: FakeOpenAIServer, fault: Fault) -> None:
    fake.faults = FaultPlan({"small": fault})
    found = record(await app(XRouterNode(pool(fake, *NAMES))).ainvoke(ask()))
    check(fake, found["charges"])


@EACH
async def test_a_router_models_charges_are_the_servers_bill(
    fake: FakeOpenAIServer, fault: Fault
) -> None:
    fake.add_model(FakeModel(name="guide", reply=Reply(tool_calls=[ToolCall("call_small", {})])))
    fake.faults = FaultPlan({"guide": fault})
    node = XRouterNode(pool(fake, *NAMES), policy=card(fake, "guide"))
    check(fake, record(await app(node).ainvoke(ask()))["charges"])


@EACH
async def test_a_retried_attempt_is_on_the_ledger_beside_the_good_one(
    fake: FakeOpenAIServer, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrouter_lg.calls.attempt._BACKOFF_S", 0.001)
    fake.faults = FaultPlan({"small": first(1, fault)})
    found = record(await app(XRouterNode(pool(fake, *NAMES, max_retries=1))).ainvoke(ask()))
    check(fake, found["charges"])


async def test_a_streamed_request_is_charged_to_the_token(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake), policy="fixed:large"))
    final: Any = None
    async for mode, part in graph.astream(ask(), stream_mode=["messages", "values"]):
        final = part if mode == "values" else final
    assert fake.requests[0].stream
    check(fake, record(final)["charges"])


async def test_two_hundred_requests_at_once_lose_no_charge(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake, timeout_s=60.0), policy="random"))
    states = await asyncio.gather(*(graph.ainvoke(ask(str(i))) for i in range(200)))
    charges = [charge for state in states for charge in record(state)["charges"]]
    assert len(charges) == len(fake.requests) == 200
    total = sum((Decimal(charge["cost_usd"]) for charge in charges), Decimal(0))
    assert total == sum((usd(line.usage, PRICES[line.model]) for line in fake.bill), Decimal(0))


async def test_a_fan_out_is_charged_for_every_call(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake), policy=calls("small", "large", "small"))
    found = record(await app(node).ainvoke(ask()))
    billed = sum((usd(line.usage, PRICES[line.model]) for line in fake.bill), Decimal(0))
    assert Decimal(found["cost_usd"]) == billed


async def test_unknown_parts_leave_the_known_sum(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    found = record(await app(XRouterNode(pool(fake))).ainvoke(ask()))
    assert found["cost_usd"] is None
    assert Decimal(found["known_cost_usd"]) == usd(fake.bill[0].usage, PRICES["large"])
