"""The core: constraints, policy, guards, decision; no graph, no server."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from tests.support.apps import Says, calls, prefers, scripted
from xrouter_lg import Action, Budget, Exploration, ModelPool, Proposal, Router, RouteRequest
from xrouter_lg.errors import BudgetExceededError, NoCandidateError
from xrouter_lg.types import Answer, Decision, PlannedCall

POOL = ModelPool([scripted(n, max_output_tokens=1000) for n in ("small", "medium", "large")])
REQUEST = RouteRequest(
    [HumanMessage("Why?")], prompt_tokens=50, prompt_tokens_max=100, default="small"
)
DONE = Answer("c1", "small", AIMessage("done"))


async def decide(policy: Any, request: RouteRequest = REQUEST, **options: Any) -> Decision:
    return await Router(POOL, policy, **options).decide(request, POOL)


async def test_the_policy_sees_only_candidates() -> None:
    seen: list[Any] = []

    def propose(request: Any, candidates: Any) -> Proposal:
        seen.extend(card.name for card in candidates)
        return Proposal({"small": 1.0})

    await decide(Says(propose), replace(REQUEST, deny=frozenset({"large"})))
    assert seen == ["small", "medium"]


async def test_a_decision_survives_its_stored_form() -> None:
    decision = await decide(calls(Action("call", card="small", hint="h", max_tokens=5)))
    assert Decision.from_dict(decision.to_dict()) == decision


async def test_calls_of_one_turn_have_ids_of_their_own() -> None:
    decision = await decide(calls("small", "small", "large"))
    assert [call.id for call in decision.calls] == ["c1", "c2", "c3"]


async def test_calls_of_a_later_turn_do_not_repeat_an_id() -> None:
    later = replace(REQUEST, turn=2, max_turns=3, answers=(DONE,))
    decision = await decide(calls("small", "large"), later)
    assert [call.id for call in decision.calls] == ["c2_1", "c2_2"]


async def test_a_length_beyond_the_cards_is_cut_to_it() -> None:
    decision = await decide(calls(Action("call", card="small", max_tokens=99_999)))
    assert decision.calls[0].max_tokens == 1000


async def test_under_a_limit_every_call_has_an_allowance_and_a_length() -> None:
    limited = replace(REQUEST, remaining_usd=Decimal(1))
    decision = await decide(calls("small", "large"), limited)
    assert [(c.max_tokens, c.allowance_usd) for c in decision.calls] == [
        (1000, Decimal("0.0021")),
        (1000, Decimal("0.0410")),
    ]


async def test_a_call_that_does_not_fit_leaves_its_room_to_a_cheaper_one() -> None:
    limited = replace(REQUEST, remaining_usd=Decimal("0.0435"))
    decision = await decide(calls("large", "large", "small"), limited)
    assert [call.id for call in decision.calls] == ["c1", "c3"]
    assert list(decision.skipped) == ["c2"]


async def test_allowances_never_add_up_to_more_than_what_is_left() -> None:
    for cents in range(1, 60):
        limited = replace(REQUEST, remaining_usd=Decimal(cents) / 1000)
        decision = await decide(calls("large", "medium", "small", "small"), limited)
        total = sum((c.allowance_usd or Decimal(0) for c in decision.calls), Decimal(0))
        assert total <= Decimal(cents) / 1000


async def test_a_card_of_unknown_price_is_not_drawn_where_exploring_has_a_share() -> None:
    pool = ModelPool([scripted("small"), scripted("unpriced")])
    exploration = Exploration(rate=1.0, share_of_spend=0.5)
    router = Router(pool, "fixed:small", exploration=exploration)
    decisions = [await router.decide(REQUEST, pool) for _ in range(20)]
    assert {decision.calls[0].card for decision in decisions} == {"small"}


async def test_the_last_turn_is_final() -> None:
    orchestrating = calls("small", orchestrates=True)
    assert (await decide(orchestrating, replace(REQUEST, max_turns=2))).final is False
    last = replace(REQUEST, max_turns=2, turn=2, answers=(DONE,))
    assert (await decide(orchestrating, last)).final is True


async def test_a_policy_that_does_not_orchestrate_gets_one_turn() -> None:
    assert (await decide(calls("small"), replace(REQUEST, max_turns=3))).final is True


async def test_money_used_up_between_turns_gives_the_best_answer_so_far() -> None:
    later = replace(
        REQUEST, turn=2, max_turns=3, answers=(DONE,), remaining_usd=Decimal("0.0000001")
    )
    decision = await decide(calls("small"), later)
    assert (decision.select, decision.reason) == (
        "c1",
        "budget used up; the best answer so far",
    )


async def test_a_cut_answer_is_selected_only_where_there_is_no_complete_one() -> None:
    cut = Answer("c2", "large", AIMessage("cut"), truncated=True)
    later = replace(REQUEST, turn=2, max_turns=2, answers=(DONE, cut))
    assert (await decide(Says(lambda r, c: None), later)).select == "c1"


async def test_an_error_names_what_is_left_and_what_each_card_may_cost() -> None:
    limited = replace(REQUEST, remaining_usd=Decimal("0.001"))
    with pytest.raises(BudgetExceededError, match=r"\$0.001 is left.*'?small'?: budget: may cost"):
        await decide("fixed", limited, budget=Budget(on_exceeded="error"))


async def test_no_candidate_is_raised_before_the_policy_is_asked() -> None:
    policy = prefers("small")
    with pytest.raises(NoCandidateError):
        await decide(policy, replace(REQUEST, allow=frozenset()))
    assert not policy.asked


async def test_one_candidate_is_not_worth_a_question() -> None:
    policy = prefers("small")
    decision = await decide(policy, replace(REQUEST, allow=frozenset({"large"})))
    assert (decision.calls[0].card, decision.propensity, policy.asked) == ("large", 1.0, [])


def tool_loop(route: str | None) -> RouteRequest:
    meta = {} if route is None else {"xrouter": {"route": route}}
    asked = AIMessage("", tool_calls=[{"name": "t", "args": {}, "id": "1"}], response_metadata=meta)
    talk = [HumanMessage("Why?"), asked, ToolMessage("42", tool_call_id="1")]
    bound = {"type": "function", "function": {"name": "t", "parameters": {}}}
    return replace(REQUEST, messages=talk, tools=(bound,))


async def test_a_tool_loop_stays_with_its_model() -> None:
    decision = await decide(prefers("small"), tool_loop("large"))
    assert (decision.calls[0].card, decision.reason) == ("large", "same model in a tool loop")


async def test_a_tool_loop_is_not_explored() -> None:
    router = Router(POOL, prefers("small"), exploration=1.0)
    cards = {(await router.decide(tool_loop("large"), POOL)).calls[0].card for _ in range(20)}
    assert cards == {"large"}


@pytest.mark.parametrize("route", [None, "gone", "router"])
async def test_a_tool_loop_of_nobody_here_asks_the_policy(route: str | None) -> None:
    assert (await decide(prefers("medium"), tool_loop(route))).calls[0].card == "medium"


async def test_a_new_question_behind_a_tool_loop_is_decided_anew() -> None:
    loop = tool_loop("large")
    asked = replace(loop, messages=[*loop.messages, AIMessage("42"), HumanMessage("And now?")])
    assert (await decide(prefers("medium"), asked)).calls[0].card == "medium"


async def test_old_pools_are_let_go_after_a_while() -> None:
    router = Router(POOL)
    pools = [ModelPool([scripted("small", description=str(i))]) for i in range(20)]
    for pool in pools:
        router._pool = pool
        assert router.pool is pool
    assert len(router._versions) <= 8
    assert router.pool_of(pools[-2].fingerprint) is pools[-2]
    assert router.pool_of("gone") is pools[-1]


def test_a_call_survives_its_stored_form() -> None:
    call = PlannedCall("c1", "small", "hint", 0.5, 7, Decimal("0.00000010"))
    assert PlannedCall.from_dict(call.to_dict()) == call
