"""Asking a policy: whatever goes wrong with it costs a fallback, never the request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xrouter_lg.calls.failures import describe
from xrouter_lg.calls.told.notices import notice_failed_policy
from xrouter_lg.errors import PolicyTimeoutError
from xrouter_lg.policies.base import BasePolicy, Policy, by_price, one_hot
from xrouter_lg.policies.proposals import clean_attempt, read_proposal
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.routing.reserving import check_affordable
from xrouter_lg.routing.spending import Spending
from xrouter_lg.types import Action, Answer, Proposal, RouteRequest


@dataclass(frozen=True, slots=True)
class Proposed:
    """A proposal, what went wrong on the way to it, and whether it may be explored: not inside a
    tool loop, nor where a run has stalled and goes on with a card above."""

    proposal: Proposal
    error: str | None = None
    sticky: bool = False
    raised: frozenset[str] = frozenset()
    """The cards above one that stalled: all others stand behind them in the order."""


async def ask(
    policy: Policy, request: RouteRequest, cards: Sequence[ModelCard], spending: Spending | None
) -> Proposed:
    """The policy's proposal, or the fallback for whatever went wrong with it. What it may cost is
    set aside in ``spending`` first, where the request falls under limits there."""
    mine, held = asyncio.current_task(), None
    spending = spending if request.caps else None
    try:
        timeout = float(getattr(policy, "timeout_s", BasePolicy.timeout_s))
        if request.remaining_s is not None:
            timeout = min(timeout, request.remaining_s)
        if isinstance(policy, BasePolicy) and request.remaining_usd is not None:
            worst = policy.worst_case_usd(request, cards)
            check_affordable(worst, request, cards)
            if spending is not None and worst:
                held = await spending.hold(request.caps, worst)
        try:
            async with asyncio.timeout(timeout) as deadline:
                proposed = await policy.propose(request, cards)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            raise PolicyTimeoutError(f"no proposal within {timeout:g} s") from error
        return Proposed(read_proposal(proposed, cards, request.answers))
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # Nobody has cancelled the request: it leaked out of something the policy ran.
        return _fallback(policy, request, cards, error)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        if isinstance(error, GeneratorExit) and not _is_running(mine):
            raise  # who closes this coroutine does so from outside
        return _fallback(policy, request, cards, error)
    finally:
        clean_attempt(request.attempt)
        if spending is not None and (held is not None or request.attempt.charges):
            spending.settle(request.caps, held, request.attempt.charges)


def _fallback(
    policy: Policy, request: RouteRequest, cards: Sequence[ModelCard], problem: BaseException
) -> Proposed:
    error = describe(problem)
    notice_failed_policy(str(policy.name), str(policy.version), problem, error)
    best = best_answer(request.answers)
    if best is not None:
        action = Action("select", call_id=best.call_id)
        reason = "the policy failed; the best answer so far"
        names = {card.name: 0.0 for card in cards}
        return Proposed(Proposal(names, (action,), 1.0, reason), error)
    chosen = next((c.name for c in cards if c.name == request.default), None)
    chosen = chosen or by_price(cards, request)[0].name
    reason = "the policy failed; the pool's default card"
    return Proposed(Proposal(one_hot(chosen, cards), propensity=1.0, reason=reason), error)


def best_answer(answers: Sequence[Answer]) -> Answer | None:
    """The latest complete answer, else the latest cut one."""
    complete = [answer for answer in answers if not answer.truncated]
    pool = complete or list(answers)
    return pool[-1] if pool else None


def _is_running(task: asyncio.Task[Any] | None) -> bool:
    try:
        return asyncio.current_task() is task
    except RuntimeError:  # no loop runs
        return False
