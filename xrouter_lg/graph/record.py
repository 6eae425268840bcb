"""From what happened to the route record: the one place that builds it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from xrouter_lg.calls.attempt import CallResult
from xrouter_lg.calls.ledger import totals
from xrouter_lg.graph.next_step import Finish, Unanswered
from xrouter_lg.graph.turn import Turn
from xrouter_lg.route_record import RouteRecord
from xrouter_lg.types import Charge, Decision, usd, usd_str


def build_record(
    finish: Finish | Unanswered,
    turns: Sequence[Turn],
    results: Sequence[CallResult],
    *,
    run_id: str | None,
    trace_id: str | None,
) -> RouteRecord:
    """The record of a finished request, or of one that has ended in an error."""
    decisions, context = [turn.decision for turn in turns], turns[0].context
    charges: list[Charge] = []
    for decision in decisions:
        charges += decision.charges
    for result in results:
        charges += result.charges
    sums = totals(charges)
    first, last = decisions[0], decisions[-1]
    # The decision that the answer comes from; a later turn may only have selected it.
    deciding = next(
        (d for d in decisions if any(call.id == finish.call_id for call in d.calls)), last
    )
    took = max(0.0, time.time() - context.started_at)  # the clock may have been set back
    return RouteRecord(
        route=finish.route,
        reason=finish.reason,
        policy=last.policy,
        policy_version=last.policy_version,
        prompt_hash=last.prompt_hash,
        pool_fingerprint=context.pool_fingerprint,
        cost_weight=context.cost_weight,
        scores=dict(deciding.scores),
        propensity=_joint_propensity(decisions),
        cost_usd=usd_str(sums.total),
        router_cost_usd=usd_str(sums.router),
        worker_cost_usd=usd_str(sums.worker),
        known_cost_usd=usd_str(sums.known) or "0",
        charges=[charge.to_dict() for charge in charges],
        fallbacks=_fallbacks(decisions, results),
        turns=len(turns),
        latency_s=round(took, 6),
        trace_id=trace_id,
        run_id=run_id,
        candidates=list(first.order),
        removed=dict(first.removed),
        served_model=_served(finish, results),
        truncated=finish.truncated,
        decisions=[_summary(decision) for decision in decisions],
        started_at=context.started_at,
        thread_id=context.thread_id,
        tenant=context.tenant,
        arm=first.notes.get("arm"),
        shadow_cost_usd=_shadow_cost(decisions),
        error=finish.error,
        estimated_cost_usd=usd_str(sums.estimated),
    )


def _joint_propensity(turns: Sequence[Decision]) -> float | None:
    """The probability of the whole path; unknown as soon as one step's is."""
    joint = 1.0
    for turn in turns:
        if turn.propensity is None:
            return None
        joint *= turn.propensity
    return joint


def _shadow_cost(turns: Sequence[Decision]) -> str | None:
    total = Decimal(0)
    for turn in turns:
        shadow = turn.notes.get("shadow")
        if shadow is None:
            continue
        cost = usd(shadow.get("cost_usd"))
        if cost is None:
            return None
        total += cost
    return usd_str(total)


def _fallbacks(turns: Sequence[Decision], results: Sequence[CallResult]) -> list[dict[str, Any]]:
    """Everything that did not go as proposed: a failed policy, a failed call."""
    found: list[dict[str, Any]] = [
        {"card": None, "error": "policy", "detail": turn.policy_error}
        for turn in turns
        if turn.policy_error is not None
    ]
    found += [
        {"card": result.card, "error": str(result.error), "detail": result.detail}
        for result in results
        if result.error is not None
    ]
    return found


def _served(finish: Finish | Unanswered, results: Sequence[CallResult]) -> str | None:
    for result in results:
        if result.call_id == finish.call_id and result.charges:
            return result.charges[-1].served_model
    return None


def _summary(turn: Decision) -> dict[str, Any]:
    """A decision without what the record already has elsewhere."""
    return {
        "turn": turn.turn,
        "reason": turn.reason,
        "calls": [call.to_dict() for call in turn.calls],
        "skipped": dict(turn.skipped),
        "select": turn.select,
        "direct": turn.text is not None,
        "propensity": turn.propensity,
        "explored": turn.explored,
        "explore": None if turn.explore is None else dict(turn.explore),
        "policy_error": turn.policy_error,
        "token_ids": turn.token_ids,
        "quality": None if turn.quality is None else dict(turn.quality),
        "shadow": turn.notes.get("shadow"),
    }
