"""The step after calls have come back. Pure: no graph, no model."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from tests.support.apps import scripted
from xrouter_lg import ModelPool, RouteRequest
from xrouter_lg.calls.attempt import CallResult
from xrouter_lg.errors import AllCandidatesFailedError, ErrorClass, StreamInterruptedError
from xrouter_lg.graph.next_step import Finish, NextCall, NextTurn, next_step, outcomes_of
from xrouter_lg.types import Answer, Charge, Decision, PlannedCall

NAMES = ("small", "medium", "large")
POOL = ModelPool([scripted(n, max_output_tokens=100) for n in NAMES])
ESCALATES = ModelPool(POOL.cards, on_truncated="escalate")


def turn(*cards: str, order: tuple[str, ...] = NAMES, **options: Any) -> Decision:
    made = tuple(PlannedCall(f"c{i + 1}", card) for i, card in enumerate(cards))
    base = Decision(1, made, order, "because", "policy", "1", {}, 1.0)
    return replace(base, **options)


def good(call_id: str, card: str, text: str = "fine", **options: Any) -> CallResult:
    return CallResult(call_id, card, AIMessage(text), (), **options)


def bad(call_id: str, card: str, error: ErrorClass = ErrorClass.SERVER, **o: Any) -> CallResult:
    return CallResult(call_id, card, None, o.pop("charges", ()), error, "it broke", **o)


def step(
    decision: Decision | list[Decision],
    *results: CallResult,
    pool: ModelPool = POOL,
    remaining: Decimal | None = None,
    is_open: Any = lambda card: False,
) -> Finish | NextCall | NextTurn:
    request = RouteRequest([HumanMessage("?")], remaining_usd=remaining, prompt_tokens_max=100)
    turns = decision if isinstance(decision, list) else [decision]
    return next_step(turns, results, pool, lambda: request, is_open)


def finish(found: Finish | NextCall | NextTurn) -> Finish:
    assert isinstance(found, Finish)
    return found


def following(found: Finish | NextCall | NextTurn) -> PlannedCall:
    assert isinstance(found, NextCall)
    return found.call


def test_an_answer_finishes() -> None:
    found = finish(step(turn("small"), good("c1", "small")))
    assert (found.route, found.reason, found.truncated) == ("small", "because", False)


def test_the_first_complete_answer_of_a_fan_out_is_taken() -> None:
    cut = good("c1", "small", truncated=True)
    assert finish(step(turn("small", "large"), cut, good("c2", "large"))).route == "large"


def test_a_turn_that_is_not_final_goes_back_to_the_policy() -> None:
    assert isinstance(step(turn("small", final=False), good("c1", "small")), NextTurn)


def test_a_failed_call_goes_to_the_next_in_the_policys_order() -> None:
    decision = turn("large", order=("large", "medium", "small"))
    assert following(step(decision, bad("c1", "large"))).card == "medium"


def test_the_next_call_keeps_hint_temperature_and_length() -> None:
    first = PlannedCall("c1", "small", "be brief", 0.3, 9)
    call = following(step(turn(calls=(first,)), bad("c1", "small")))
    assert (call.id, call.hint, call.temperature, call.max_tokens) == ("c1.1", "be brief", 0.3, 9)


def test_a_chain_of_failures_has_ids_of_its_own() -> None:
    call = following(step(turn("small"), bad("c1", "small"), bad("c1.1", "medium")))
    assert (call.id, call.card) == ("c1.2", "large")


def test_a_failover_says_whom_it_stands_for() -> None:
    found = finish(step(turn("small"), bad("c1", "small"), good("c1.1", "medium")))
    assert found.reason == "because; small failed, next in the policy's order"


def test_a_card_whose_circuit_has_opened_meanwhile_comes_last() -> None:
    call = following(step(turn("small"), bad("c1", "small"), is_open=lambda card: card == "medium"))
    assert call.card == "large"


def test_cards_that_were_removed_are_not_tried() -> None:
    with pytest.raises(AllCandidatesFailedError):
        step(turn("small", order=("small",)), bad("c1", "small"))


def test_a_card_that_left_the_pool_is_passed_over() -> None:
    call = following(step(turn("small", order=("small", "gone", "large")), bad("c1", "small")))
    assert call.card == "large"


def test_a_window_that_was_too_short_rules_out_those_no_larger() -> None:
    cards = [scripted("a", context_window=100), scripted("b", context_window=100), scripted("c")]
    decision = turn("a", order=("a", "b", "c"))
    result = bad("c1", "a", ErrorClass.CONTEXT_LENGTH)
    assert following(step(decision, result, pool=ModelPool(cards))).card == "c"


def test_what_can_not_be_paid_is_passed_over() -> None:
    decision = turn("small", order=("small", "large", "medium"))
    call = following(step(decision, bad("c1", "small"), remaining=Decimal("0.002")))
    assert (call.card, call.allowance_usd) == ("medium", Decimal("0.001"))


def test_nothing_left_to_pay_with_ends_it() -> None:
    with pytest.raises(AllCandidatesFailedError):
        step(turn("small"), bad("c1", "small"), remaining=Decimal(0))


def test_a_failure_mid_stream_asks_nobody_else() -> None:
    with pytest.raises(StreamInterruptedError, match="mid-stream: it broke"):
        step(turn("small"), bad("c1", "small", streamed=True))


def test_a_cut_answer_is_the_answer_unless_the_pool_escalates() -> None:
    cut = good("c1", "small", truncated=True)
    assert finish(step(turn("small"), cut)).truncated is True
    assert following(step(turn("small"), cut, pool=ESCALATES)).card == "medium"


def test_a_cut_answer_that_has_streamed_does_not_escalate() -> None:
    cut = good("c1", "small", truncated=True, streamed=True)
    assert finish(step(turn("small"), cut, pool=ESCALATES)).route == "small"


def test_an_escalation_that_fails_leaves_the_cut_answer() -> None:
    cut = good("c1", "small", truncated=True)
    decision = turn("small", order=("small", "medium"))
    found = finish(step(decision, cut, bad("c1.1", "medium"), pool=ESCALATES))
    assert (found.route, found.truncated) == ("small", True)


def test_a_later_turn_that_fails_leaves_the_earlier_answer() -> None:
    later = turn(calls=(PlannedCall("c2_1", "large"),), order=("large", "small"), turn=2)
    found = finish(
        step([turn("small", final=False), later], good("c1", "small"), bad("c2_1", "large"))
    )
    assert found.route == "small"


def test_select_gives_that_answer() -> None:
    decision = turn(select="c2")
    found = finish(step(decision, good("c1", "small"), good("c2", "large", "this one")))
    assert (found.route, found.message.content) == ("large", "this one")


def test_an_answer_of_the_routers_own_names_the_router() -> None:
    found = finish(step(turn(text="Hello")))
    assert (found.route, found.message.content) == ("router", "Hello")


def test_the_error_of_all_adds_up_what_each_card_has_cost() -> None:
    def charge(cost: str | None) -> Charge:
        known = None if cost is None else Decimal(cost)
        return Charge("worker", "a", "a", 1, None, known, None, 0.1)

    with pytest.raises(AllCandidatesFailedError) as caught:
        step(
            turn("small", order=("small", "medium")),
            bad("c1", "small", charges=(charge("0.1"), charge("0.2"))),
            bad("c1.1", "medium", charges=(charge("0.1"), charge(None))),
        )
    assert [(a["card"], a["cost_usd"], a["attempts"]) for a in caught.value.attempts] == [
        ("small", "0.3", 2),
        ("medium", None, 2),
    ]


def test_outcomes_stand_in_the_order_of_the_proposal() -> None:
    decision = turn("small", "large", skipped={"c3": "too dear"})
    results = [good("c2", "large"), bad("c1", "small")]
    assert outcomes_of(decision, results) == [
        "c1 failed: server",
        Answer("c2", "large", results[0].message),  # type: ignore[arg-type]
        "c3 was not called: too dear",
    ]


def test_a_call_that_failed_over_shows_who_answered_in_its_place() -> None:
    shown = outcomes_of(turn("small"), [bad("c1", "small"), good("c1.1", "medium")])
    assert [a.card for a in shown if isinstance(a, Answer)] == ["medium"]


def test_ten_calls_do_not_mix_c1_with_c10() -> None:
    decision = turn(*["small"] * 10)
    results = [good(f"c{i}", "small", str(i)) for i in range(10, 0, -1)]
    shown = [a.message.content for a in outcomes_of(decision, results) if isinstance(a, Answer)]
    assert shown == [str(i) for i in range(1, 11)]
