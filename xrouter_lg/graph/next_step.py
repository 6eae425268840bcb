"""What follows when calls have come back: an answer, another candidate, or another turn.

Pure: no I/O and no graph, so that every surface takes the same step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache

from langchain_core.messages import AIMessage

from xrouter_lg.calls.attempt import CallResult
from xrouter_lg.calls.ledger import counted, totals
from xrouter_lg.errors import (
    AllCandidatesFailedError,
    ErrorClass,
    StreamInterruptedError,
)
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing import constraints
from xrouter_lg.routing.tool_loop import in_tool_loop
from xrouter_lg.types import (
    ROUTER_ROUTE,
    Answer,
    CallId,
    Decision,
    PlannedCall,
    RouteRequest,
    usd_str,
)


@dataclass(frozen=True, slots=True)
class Finish:
    """The request has its answer. ``route`` is the card that gave it, or ``"router"``."""

    message: AIMessage
    route: str
    reason: str
    call_id: str | None = None
    truncated: bool = False
    error: None = None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The request ends in an error, or its caller has left."""

    error: str
    reason: str
    route: None = None
    call_id: None = None
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class NextCall:
    """Every call of the turn failed: the next candidate is asked."""

    call: PlannedCall


@dataclass(frozen=True, slots=True)
class NextTurn:
    """The policy wants to see the answers."""


def next_step(
    turns: Sequence[Decision],
    results: Sequence[CallResult],
    pool: ModelPool,
    request: Callable[[], RouteRequest],
    is_open: Callable[[str], bool],
) -> Finish | NextCall | NextTurn:
    """The step after the latest turn. ``request`` is asked only when a call has failed.

    Raises:
        StreamInterruptedError: a call failed after its tokens had reached the caller.
        AllCandidatesFailedError: nobody answered and nobody is left.
    """
    turn = turns[-1]
    if turn.text is not None:
        return Finish(_own_answer(turn), ROUTER_ROUTE, turn.reason)
    if turn.select is not None:
        chosen = next(result for result in results if result.call_id == turn.select)
        return _finish(chosen, turn.reason)
    mine = _of_turn(results, turn)
    answered = [result for result in mine if result.message is not None]
    complete = [result for result in answered if not result.truncated]
    escalate = pool.on_truncated == "escalate"
    # A cut answer that has streamed is the answer: another one's text would be glued to it.
    shown = any(result.streamed for result in answered)
    if complete or (answered and (shown or not escalate)):
        if not turn.final:
            return NextTurn()
        best = (complete or answered)[0]
        return _finish(best, _reason(turn, best, mine))
    for result in mine:
        if result.streamed:
            raise StreamInterruptedError(
                result.card, result.error or ErrorClass.UNKNOWN, f"mid-stream: {result.detail}"
            )
    following = _next_candidate(turn, results, pool, request(), is_open)
    if following is not None:
        return NextCall(following)
    if (kept := best_so_far(results)) is not None:
        return kept
    raise AllCandidatesFailedError(_attempts(results))


def best_so_far(results: Sequence[CallResult]) -> Finish | None:
    """An answer of an earlier turn, or a cut one: better than none, and marked."""
    answered = [result for result in results if result.message is not None]
    if not answered:
        return None
    return _finish(answered[-1], "no other candidate answered; the best answer so far")


def others_left(
    turn: Decision,
    call: PlannedCall,
    results: Sequence[CallResult],
    pool: ModelPool,
    request: RouteRequest,
    is_open: Callable[[str], bool],
) -> bool:
    """Whether another card could be asked now if ``call`` failed."""
    asked = [*results, CallResult(call.id, call.card, None, ())]
    busy = {planned.card for planned in turn.calls}
    following = _next_candidate(
        turn, asked, pool, request, lambda name: name in busy or is_open(name)
    )
    return following is not None and following.card not in busy and not is_open(following.card)


def hedge_of(
    turn: Decision, pool: ModelPool, request: RouteRequest, is_open: Callable[[str], bool]
) -> PlannedCall | None:
    """The call that may be made beside a turn's only one, where both can be paid; None where the
    turn has another shape, or nobody healthy is left.

    In a tool loop there is none: who goes on has to know the thoughts that the loop began with, and
    those are signed for the card that had them.
    """
    if len(turn.calls) != 1 or not turn.final or in_tool_loop(request.messages):
        return None
    first = turn.calls[0]
    if request.remaining_usd is not None:
        asked = sum((counted(charge) for charge in turn.charges), first.allowance_usd or Decimal(0))
        left = request.remaining_usd - asked
        request = replace(request, remaining_usd=left)
    beside = [CallResult(first.id, first.card, None, ())]
    following = _next_candidate(turn, beside, pool, request, is_open)
    return None if following is None or is_open(following.card) else following


def answers_of(results: Sequence[CallResult]) -> tuple[Answer, ...]:
    """The answers so far, in the order in which they were asked for."""
    return tuple(
        Answer(result.call_id, result.card, result.message, result.truncated)
        for result in results
        if result.message is not None
    )


def outcomes_of(turn: Decision, results: Sequence[CallResult]) -> list[Answer | str]:
    """What each proposed call of a turn came to, in the order of the proposal. A call that
    failed over stands for the card that answered in its place."""
    outcomes: list[Answer | str] = []
    for call_id in sorted([*(call.id for call in turn.calls), *turn.skipped], key=CallId.parse):
        if call_id in turn.skipped:
            outcomes.append(f"{call_id} was not called: {turn.skipped[call_id]}")
            continue
        chain = [result for result in results if _proposed(result) == call_id]
        good = next((result for result in chain if result.message is not None), None)
        if good is not None and good.message is not None:
            outcomes.append(Answer(good.call_id, good.card, good.message, good.truncated))
        else:
            last = chain[-1] if chain else None
            outcomes.append(f"{call_id} failed: {last.error if last else 'no result'}")
    return outcomes


def _proposed(result: CallResult) -> str:
    """The id of the call that a result is of, or stands in for."""
    return _proposed_id(result.call_id)


@lru_cache(maxsize=1024)
def _proposed_id(call_id: str) -> str:
    return str(CallId.parse(call_id).proposed)


def _of_turn(results: Sequence[CallResult], turn: Decision) -> list[CallResult]:
    calls = {call.id for call in turn.calls}
    return [result for result in results if _proposed(result) in calls]


def _finish(result: CallResult, reason: str) -> Finish:
    assert result.message is not None
    return Finish(result.message, result.card, reason, result.call_id, result.truncated)


def _reason(turn: Decision, best: CallResult, results: Sequence[CallResult]) -> str:
    if CallId.parse(best.call_id).attempt:
        first = turn.calls[0].card
        if any(r.card == first and r.error is ErrorClass.SLOW for r in results):
            return f"{turn.reason}; {first} was slow, next in the policy's order"
        return f"{turn.reason}; {first} failed, next in the policy's order"
    return turn.reason


def _own_answer(turn: Decision) -> AIMessage:
    assert turn.text is not None
    if turn.message is None:
        return AIMessage(turn.text)
    return AIMessage(
        turn.text,
        id=turn.message.id,
        usage_metadata=turn.message.usage_metadata,
        response_metadata=dict(turn.message.response_metadata),
    )


def _next_candidate(
    turn: Decision,
    results: Sequence[CallResult],
    pool: ModelPool,
    request: RouteRequest,
    is_open: Callable[[str], bool],
) -> PlannedCall | None:
    """The next card in the policy's own order that has not been tried and can be paid."""
    tried = {result.card for result in results}
    too_short = {
        pool[result.card].context_window or 0
        for result in results
        if result.error is ErrorClass.CONTEXT_LENGTH and result.card in pool
    }
    waiting = [name for name in turn.order if name not in tried and name in pool]
    # A card whose circuit is open comes last rather than never.
    waiting.sort(key=is_open)
    first = turn.calls[0]
    for name in waiting:
        card = pool[name]
        if too_short and card.context_window and card.context_window <= max(too_short):
            continue
        max_tokens, allowance = first.max_tokens, None
        if request.remaining_usd is not None:
            cap = constraints.output_cap(card, request)
            max_tokens = cap if max_tokens is None else min(max_tokens, cap)
            allowance = constraints.reserved_usd_for(card, request, max_tokens, first.hint)
            if allowance is None or allowance > request.remaining_usd:
                continue
        number = len(_of_turn(results, turn))
        return PlannedCall(
            id=str(replace(CallId.parse(first.id), attempt=number)),
            card=name,
            hint=first.hint,
            temperature=first.temperature,
            max_tokens=max_tokens,
            allowance_usd=allowance,
        )
    return None


def _attempts(results: Sequence[CallResult]) -> list[dict[str, object]]:
    return [
        {
            "card": result.card,
            "error": str(result.error),
            "detail": result.detail,
            "cost_usd": usd_str(totals(result.charges).total),
            "attempts": len(result.charges),
        }
        for result in results
    ]
