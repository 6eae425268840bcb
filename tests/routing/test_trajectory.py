"""An agent's steps, which of them stalled, and who goes on then."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from tests.support.apps import scripted
from xrouter_lg import ModelPool, RouteRequest
from xrouter_lg.routing.router import Router
from xrouter_lg.routing.trajectory import above_stalled, steps_of

POOL = ModelPool([scripted(name) for name in ("large", "small", "medium")])
"""In no order of price: small, medium, large is that."""


def called(
    card: str | None, *calls: tuple[str, dict[str, Any]], id: str | None = None
) -> AIMessage:
    made = [
        {"name": name, "args": args, "id": id or f"{name}{args}", "type": "tool_call"}
        for name, args in calls
    ]
    record = {} if card is None else {"xrouter": {"route": card}}
    return AIMessage("", tool_calls=made, response_metadata=record)  # type: ignore[arg-type]


def step(
    card: str | None, name: str = "look", result: str = "42", *, failed: bool = False, **args: Any
) -> list[BaseMessage]:
    status = "error" if failed else "success"
    return [
        called(card, (name, args)),
        ToolMessage(result, tool_call_id=f"{name}{args}", status=status),  # type: ignore[arg-type]
    ]


def request(*messages: BaseMessage, **options: Any) -> RouteRequest:
    return RouteRequest([HumanMessage("What?"), *messages], per_step=True, **options)


def names(found: Sequence[Any]) -> list[str]:
    return [card.name for card in found]


def test_steps_tell_who_called_what_and_what_came_of_it() -> None:
    first, second = steps_of([HumanMessage("?"), *step("small", q=1), *step("large", q=2)])
    assert (first.card, first.calls, first.results) == ("small", (("look", '{"q": 1}'),), ("42",))
    assert (second.card, second.stalled, second.trouble) == ("large", False, "")


def test_the_same_call_with_the_same_result_is_a_stall_and_polling_is_none() -> None:
    polled = [*step("small", result="wait"), *step("small", result="ready")]
    assert not any(found.stalled for found in steps_of(polled))
    again = steps_of([*step("small", a=1, b=2), *step("small", b=2, a=1)])
    assert [found.repeated for found in again] == [False, True]


def test_a_step_fails_when_every_call_of_it_does() -> None:
    both = called("small", ("a", {}), ("b", {}))
    results = [
        ToolMessage("no", tool_call_id="a{}", status="error"),
        ToolMessage("no", tool_call_id="b{}", status="error"),
    ]
    half = [results[0], ToolMessage("yes", tool_call_id="b{}")]
    assert [s.failed for s in steps_of([both, *results])] == [True]
    assert [s.failed for s in steps_of([both, *half])] == [False]


def test_a_call_without_its_result_is_no_step() -> None:
    assert (
        steps_of([called("small", ("a", {}), ("b", {})), ToolMessage("x", tool_call_id="a{}")])
        == ()
    )
    assert steps_of([]) == ()


def test_arguments_too_deep_to_be_compared_are_no_stall() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5_000):
        deep = {"d": deep}
    (only,) = steps_of([called("small", ("a", deep), id="1"), ToolMessage("x", tool_call_id="1")])
    assert not only.stalled


def test_an_earlier_question_s_steps_are_another_run_s() -> None:
    before = [HumanMessage("a"), *step("small", failed=True), AIMessage("no idea")]
    (only,) = steps_of([*before, HumanMessage("b"), *step("small")])
    assert not only.stalled


def test_a_reminder_behind_a_tool_s_result_begins_no_run() -> None:
    reminded = [HumanMessage("?"), *step("small"), HumanMessage("be brief"), *step("small")]
    assert [found.repeated for found in steps_of(reminded)] == [False, True]


@pytest.mark.parametrize(
    ("stalled", "left"),
    [
        ("small", ["large", "medium"]),
        ("medium", ["large"]),
        ("large", ["large", "small", "medium"]),
    ],
)
def test_what_stands_above_a_stalled_card_is_left(stalled: str, left: list[str]) -> None:
    found, why = above_stalled(steps_of(step(stalled, failed=True)), POOL.cards, POOL)
    assert names(found) == left
    assert why == ("" if stalled == "large" else f"{stalled} stalled (its tool calls failed)")


def test_somebody_else_s_stall_is_no_reason() -> None:
    for card in (None, "gone"):
        found, why = above_stalled(steps_of(step(card, failed=True)), POOL.cards, POOL)
        assert (len(found), why) == (3, "")


async def test_a_stall_raises_the_route_one_step_and_it_stays_there() -> None:
    router = Router(POOL, "cheapest")
    stalled = step("small", failed=True)
    decision = await router.decide(request(*stalled), POOL)
    assert decision.calls[0].card == "medium"
    assert decision.reason == "small stalled (its tool calls failed); lowest expected cost"
    later = await router.decide(request(*stalled, *step("medium", q=2)), POOL)
    assert later.calls[0].card == "medium"
    again = await router.decide(request(*stalled, *step("medium", failed=True, q=2)), POOL)
    assert again.calls[0].card == "large"


def test_results_belong_to_the_call_before_them_where_ids_come_again() -> None:
    again = [*step("small", result="wait"), *step("small", failed=True, result="gone")]
    assert [(s.failed, s.results) for s in steps_of(again)] == [
        (False, ("wait",)),
        (True, ("gone",)),
    ]


async def test_the_stalled_card_still_takes_over_when_the_others_are_down() -> None:
    decision = await Router(POOL, "cheapest").decide(request(*step("small", failed=True)), POOL)
    assert decision.order == ("medium", "large", "small")


async def test_nothing_is_drawn_where_a_run_has_stalled() -> None:
    router = Router(POOL, "cheapest", exploration=1.0)
    for _ in range(20):
        decision = await router.decide(request(*step("small", failed=True)), POOL)
        assert (decision.calls[0].card, decision.explored) == ("medium", False)


async def test_a_stall_leaves_a_run_that_is_decided_once_alone() -> None:
    router = Router(POOL, "cheapest")
    tools = ({"name": "look"},)
    history = [HumanMessage("What?"), *step("small", failed=True)]
    decision = await router.decide(RouteRequest(history, tools=tools), POOL)
    assert (decision.calls[0].card, decision.reason) == ("small", "same model in a tool loop")
