"""A limit in USD holds, whatever fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from tests.support.apps import PRICES, Says, app, ask, calls, card, pool, prefers, record, true_cost
from xrouter_lg import Action, Budget, ModelPool, Proposal, XRouterNode, build_router_graph
from xrouter_lg.errors import (
    AllCandidatesFailedError,
    BudgetExceededError,
    NoCandidateError,
    RequestOptionError,
    XRouterError,
)
from xrouter_lg.routing.router import Router
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    Fault,
    FaultPlan,
    Reply,
    ToolCall,
    auth_error,
    cut_stream,
    empty,
    malformed_json,
    missing_usage,
    server_error,
    sometimes,
    truncated,
)

LONG = " ".join(f"w{i}" for i in range(3000))
FAULTS: list[Fault | None] = [
    None,
    server_error(),
    empty(),
    malformed_json(),
    missing_usage(),
    truncated(50),
    cut_stream(20),
    auth_error(),
]


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def _a_token_a_byte(body: dict[str, Any]) -> int:
    """The worst tokenizer there can be."""
    texts = [message["content"] or "" for message in body["messages"]]
    texts += [json.dumps(tool) for tool in body.get("tools", ())]
    return sum(len(text.encode()) + 3 for text in texts)


@pytest.fixture(scope="module")
def talkative(monkeypatch_module: pytest.MonkeyPatch) -> Any:
    patch = monkeypatch_module
    patch.setattr("xrouter_lg.testing.dialects.openai_chat.count_prompt_tokens", _a_token_a_byte)
    patch.setattr("xrouter_lg.calls.attempt._BACKOFF_S", 0.001)
    names = ("small", "medium", "large", "guide")
    with FakeOpenAIServer([FakeModel(name=name, reply=LONG) for name in names]) as server:
        yield server


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    limit=st.decimals("0.0002", "0.03", places=6),
    fault_of=st.lists(st.sampled_from(range(len(FAULTS))), min_size=3, max_size=3),
    fan=st.lists(st.sampled_from(["small", "medium", "large"]), min_size=1, max_size=4),
    hint=st.one_of(st.none(), st.integers(1, 400).map(lambda n: "a " * n)),
    caps=st.lists(st.one_of(st.none(), st.integers(1, 500)), min_size=3, max_size=3),
    question=st.integers(1, 200).map(lambda n: "b " * n),
    on_exceeded=st.sampled_from(["cheapest", "error"]),
    retries=st.integers(0, 2),
    escalate=st.booleans(),
)
def test_the_servers_own_bill_never_exceeds_the_limit(
    talkative: FakeOpenAIServer,
    limit: Decimal,
    fault_of: list[int],
    fan: list[str],
    hint: str | None,
    caps: list[int | None],
    question: str,
    on_exceeded: Any,
    retries: int,
    escalate: bool,
) -> None:
    names = ("small", "medium", "large")
    talkative.clear()
    talkative.faults = FaultPlan(
        {
            name: sometimes(0.7, FAULTS[index], seed=index)
            for name, index in zip(names, fault_of, strict=True)
        }
    )
    cards = [
        card(talkative, name, max_retries=retries, max_output_tokens=cap)
        for name, cap in zip(names, caps, strict=True)
    ]
    node = XRouterNode(
        ModelPool(cards, on_truncated="escalate" if escalate else "mark"),
        policy=calls(*(Action("call", card=name, hint=hint) for name in fan)),
        budget=Budget(limit, on_exceeded=on_exceeded),
    )
    with contextlib.suppress(AllCandidatesFailedError, BudgetExceededError):
        asyncio.run(app(node).ainvoke(ask(question)))
    spent = true_cost(talkative)
    event("money was spent" if spent else "nothing was spent")
    assert spent <= limit


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    limit=st.decimals("0.001", "0.06", places=6),
    turns=st.lists(st.sampled_from(["call_small", "call_large", "both", "junk"]), max_size=3),
)
def test_a_router_models_own_tokens_count_against_the_limit(
    talkative: FakeOpenAIServer, limit: Decimal, turns: list[str]
) -> None:
    plan = list(turns)

    def reply(body: dict[str, Any]) -> str | Reply:
        turn = plan.pop(0) if plan else "text"
        if turn == "text":
            return LONG
        names = ["call_small", "call_large"] if turn == "both" else [turn]
        return Reply(LONG, tool_calls=[ToolCall(name, {}) for name in names])

    talkative.clear()
    talkative.faults = FaultPlan()
    talkative.add_model(FakeModel(name="guide", reply=reply))
    node = XRouterNode(
        pool(talkative), policy=card(talkative, "guide"), max_turns=3, budget=Budget(limit)
    )
    with contextlib.suppress(AllCandidatesFailedError, BudgetExceededError):
        asyncio.run(app(node).ainvoke(ask()))
    assert true_cost(talkative) <= limit


async def test_max_tokens_of_a_budget_is_really_sent(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(ModelPool([card(fake, "small", max_output_tokens=77)]))
    await app(node).ainvoke(ask(), {"configurable": {"max_cost_usd": 1}})
    assert fake.requests[0].body["max_completion_tokens"] == 77


async def test_without_a_budget_no_limit_is_sent(fake: FakeOpenAIServer) -> None:
    await app(XRouterNode(pool(fake))).ainvoke(ask())
    body = fake.requests[0].body
    assert "max_completion_tokens" not in body
    assert "max_tokens" not in body


async def test_cheapest_shortens_the_answer_to_what_is_left(fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="small", reply=LONG))
    state = await app(XRouterNode(pool(fake))).ainvoke(
        ask(), {"configurable": {"max_cost_usd": "0.0005"}}
    )
    found = record(state)
    assert found["route"] == "small"
    assert found["reason"].startswith("budget: only a short answer fits")
    assert found["truncated"] is True
    assert true_cost(fake) <= Decimal("0.0005")


async def test_a_card_too_dear_leaves_the_others(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake), policy="fixed:large")
    found = record(await app(node).ainvoke(ask(), {"configurable": {"max_cost_usd": "0.05"}}))
    assert found["route"] == "small"
    assert found["removed"]["large"].startswith("budget: may cost $")


async def test_error_raises_before_anything_is_asked(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake), budget=Budget("0.0005", on_exceeded="error"))
    with pytest.raises(BudgetExceededError, match=r"\$0.0005 is left .* max_cost_usd"):
        await app(node).ainvoke(ask())
    assert not fake.requests


async def test_a_limit_too_low_for_a_word_raises_even_where_cheapest_is_asked_for(
    fake: FakeOpenAIServer,
) -> None:
    with pytest.raises(BudgetExceededError):
        await app(XRouterNode(pool(fake))).ainvoke(
            ask(), {"configurable": {"max_cost_usd": "0.0000001"}}
        )
    assert not fake.requests


async def test_an_unknown_price_is_no_candidate_under_a_budget(fake: FakeOpenAIServer) -> None:
    cards = [card(fake, "small", price=None), card(fake, "large")]
    found = record(
        await app(XRouterNode(ModelPool(cards))).ainvoke(
            ask(), {"configurable": {"max_cost_usd": 1}}
        )
    )
    assert (found["route"], "small" in found["removed"]) == ("large", True)
    assert "price is unknown" in found["removed"]["small"]


async def test_only_unknown_prices_under_a_budget_are_an_error_that_says_so(
    fake: FakeOpenAIServer,
) -> None:
    node = XRouterNode(ModelPool([card(fake, "small", price=None)]))
    with pytest.raises(BudgetExceededError, match="price is unknown"):
        await app(node).ainvoke(ask(), {"configurable": {"max_cost_usd": 1}})


async def test_the_smaller_of_the_two_limits_holds(fake: FakeOpenAIServer) -> None:
    policy = prefers("small")
    node = XRouterNode(pool(fake), policy=policy, budget=Budget("0.4"))
    for own, expected in (("0.3", "0.3"), ("5", "0.4")):
        await app(node).ainvoke(ask(), {"configurable": {"max_cost_usd": own}})
        assert policy.asked[-1].max_cost_usd == Decimal(expected)


async def test_parallel_calls_that_do_not_fit_together_are_not_all_made(
    fake: FakeOpenAIServer,
) -> None:
    cards = [card(fake, n, max_output_tokens=1000) for n in ("small", "large")]
    node = XRouterNode(ModelPool(cards), policy=calls("large", "small"))
    found = record(await app(node).ainvoke(ask(), {"configurable": {"max_cost_usd": "0.042"}}))
    assert fake.calls == {"large": 1}
    assert list(found["decisions"][0]["skipped"]) == ["c2"]


async def test_a_failed_call_of_unknown_cost_counts_with_its_worst_case(
    fake: FakeOpenAIServer,
) -> None:
    """500 may have cost the whole answer: a second try and the next card no longer fit."""
    fake.faults = FaultPlan({"small": server_error()})
    cards = [card(fake, n, max_output_tokens=1000, max_retries=2) for n in ("small", "medium")]
    node = XRouterNode(ModelPool(cards))
    with pytest.raises(AllCandidatesFailedError):
        await app(node).ainvoke(ask(), {"configurable": {"max_cost_usd": "0.0085"}})
    assert fake.calls == {"small": 1}


async def test_asking_the_policy_may_use_up_what_its_favourite_needs_but_not_the_request(
    fake: FakeOpenAIServer,
) -> None:
    cards = [card(fake, n, max_output_tokens=1000) for n in ("small", "large")]
    limit = "0.0420"  # large's worst case is about 0.0411, asking costs 0.002
    node = XRouterNode(
        ModelPool(cards),
        policy=card(fake, "guide"),
        budget=Budget(limit, on_exceeded="error"),
    )
    fake.add_model(
        FakeModel(
            name="guide", reply=Reply(tool_calls=[ToolCall("call_large", {})]), prompt_tokens=4000
        )
    )
    found = record(await app(node).ainvoke(ask()))
    assert found["route"] == "small"
    assert "next in order" in found["reason"]


def interrupting(fake: FakeOpenAIServer, **options: Any) -> XRouterNode:
    return XRouterNode(pool(fake), budget=Budget("0.0001", on_exceeded="interrupt"), **options)


THREAD: Any = {"configurable": {"thread_id": "t"}}


async def test_interrupt_asks_a_human_and_says_what_for(fake: FakeOpenAIServer) -> None:
    state = await app(interrupting(fake), InMemorySaver()).ainvoke(ask(), THREAD)
    value = state["__interrupt__"][0].value
    assert (value["type"], value["limit_usd"]) == ("xrouter_budget", "0.0001")
    assert not fake.requests


@pytest.mark.parametrize("limit", [1, "0.5", 0.25, Decimal("0.3")])
async def test_resuming_with_a_new_limit_goes_on(fake: FakeOpenAIServer, limit: Any) -> None:
    graph = app(interrupting(fake), InMemorySaver())
    await graph.ainvoke(ask(), THREAD)
    found = record(await graph.ainvoke(Command(resume=limit), THREAD))
    assert found["route"] == "small"


def test_interrupt_and_resume_work_in_a_sync_app(fake: FakeOpenAIServer) -> None:
    graph = app(interrupting(fake), InMemorySaver())
    assert "__interrupt__" in graph.invoke(ask(), THREAD)
    assert record(graph.invoke(Command(resume=1), THREAD))["route"] == "small"


@pytest.mark.parametrize("refusal", [False, 0, ""], ids=repr)
async def test_resuming_with_a_false_value_refuses(fake: FakeOpenAIServer, refusal: Any) -> None:
    graph = app(interrupting(fake), InMemorySaver())
    await graph.ainvoke(ask(), THREAD)
    with pytest.raises(BudgetExceededError):
        await graph.ainvoke(Command(resume=refusal), THREAD)
    assert not fake.requests


async def test_resuming_with_nonsense_names_the_value(fake: FakeOpenAIServer) -> None:
    graph = app(interrupting(fake), InMemorySaver())
    await graph.ainvoke(ask(), THREAD)
    with pytest.raises(RequestOptionError, match="'lots'"):
        await graph.ainvoke(Command(resume="lots"), THREAD)


async def test_a_raised_limit_holds_for_failover_too(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    graph = app(interrupting(fake), InMemorySaver())
    await graph.ainvoke(ask(), THREAD)
    assert record(await graph.ainvoke(Command(resume=5), THREAD))["route"] == "large"


async def test_a_raised_limit_holds_for_further_turns_too(fake: FakeOpenAIServer) -> None:
    def propose(request: Any, candidates: Any) -> Proposal:
        named = "large" if request.answers else "small"
        return Proposal({c.name: 0.5 for c in candidates}, (Action("call", card=named),))

    graph = app(
        interrupting(fake, policy=Says(propose, orchestrates=True), max_turns=2), InMemorySaver()
    )
    await graph.ainvoke(ask(), THREAD)
    state = await graph.ainvoke(Command(resume=5), THREAD)
    assert "__interrupt__" not in state
    assert record(state)["route"] == "large"


async def test_the_router_graph_interrupts_by_itself_too(fake: FakeOpenAIServer) -> None:
    router = Router(pool(fake), budget=Budget("0.0001", on_exceeded="interrupt"))
    graph = build_router_graph(router).compile(checkpointer=InMemorySaver())
    assert "__interrupt__" in await graph.ainvoke(ask(), THREAD)  # type: ignore[call-overload]
    state = await graph.ainvoke(Command(resume=1), THREAD)
    assert record(state)["route"] == "small"


async def test_a_router_model_is_not_asked_with_the_money_that_the_answer_needs(
    fake: FakeOpenAIServer,
) -> None:
    node = XRouterNode(
        ModelPool(
            [
                card(fake, name, model="small", price=PRICES["small"], max_output_tokens=1000)
                for name in ("small", "small_too")
            ]
        ),
        policy=card(fake, "guide"),
    )
    found = record(await app(node).ainvoke(ask(), {"configurable": {"max_cost_usd": "0.0025"}}))
    assert fake.calls == {"small": 1}
    assert "asking the policy may cost" in found["fallbacks"][0]["detail"]


async def test_a_router_model_that_was_paid_is_never_followed_by_an_interrupt(
    fake: FakeOpenAIServer,
) -> None:
    """The step would run again on resuming: asked and paid twice, once off the bill."""
    asked = 0
    for limit in [f"0.00{i}" for i in range(20, 70, 3)]:
        fake.clear()
        names = ("small", "small_too")
        options: Any = {"model": "small", "price": PRICES["small"], "max_output_tokens": 1000}
        node = XRouterNode(
            ModelPool([card(fake, name, **options) for name in names]),
            policy=card(fake, "guide"),
            budget=Budget(limit, on_exceeded="interrupt"),
        )
        state = await app(node, InMemorySaver()).ainvoke(ask(), THREAD)
        asked += fake.calls.get("guide", 0)
        assert not ("__interrupt__" in state and "guide" in fake.calls)
    assert asked


def test_a_budget_error_is_no_request_error() -> None:
    assert issubclass(BudgetExceededError, XRouterError)
    assert not issubclass(BudgetExceededError, NoCandidateError)


def test_prices_of_these_tests_are_exact() -> None:
    assert all(Decimal(value) for price in PRICES.values() for value in price.values())


async def test_a_long_hint_can_not_spend_more_than_the_limit(fake: FakeOpenAIServer) -> None:
    hint = Action("call", card="small", hint="a " * 1000)
    node = XRouterNode(
        ModelPool([card(fake, n, max_output_tokens=16) for n in ("small", "medium")]),
        policy=calls(hint),
        max_turns=2,
    )
    await app(node).ainvoke(ask(), {"configurable": {"max_cost_usd": "0.0008"}})
    assert 0 < true_cost(fake) <= Decimal("0.0008")
