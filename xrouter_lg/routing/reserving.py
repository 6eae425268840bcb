"""What calls may cost and are expected to, set against what is left of a request's limit."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from xrouter_lg.calls.ledger import RequestAccount
from xrouter_lg.errors import BudgetExceededError
from xrouter_lg.policies.base import expected_usd
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing import constraints
from xrouter_lg.types import Action, CallId, PlannedCall, RouteRequest


def estimate_usd(card: ModelCard, request: RouteRequest) -> float | None:
    """Expected USD of a call by the card's price; None where that is unknown."""
    usd = expected_usd(card, request)
    return None if usd is None else float(usd)


def reserve(
    actions: Sequence[Action], request: RouteRequest, pool: ModelPool, account: RequestAccount
) -> tuple[tuple[PlannedCall, ...], dict[str, str]]:
    """Calls with their worst case set aside, and those that no longer fit beside the others."""
    calls: list[PlannedCall] = []
    skipped: dict[str, str] = {}
    for index, action in enumerate(actions, start=1):
        assert action.card is not None
        card = pool[action.card]
        call_id = str(CallId(request.turn, index))
        max_tokens, allowance = action.max_tokens, None
        if max_tokens is not None and card.max_output_tokens is not None:
            max_tokens = min(max_tokens, card.max_output_tokens)
        if account.limit_usd is not None:
            cap = constraints.output_cap(card, request)
            max_tokens = cap if max_tokens is None else min(max_tokens, cap)
            allowance = constraints.reserved_usd_for(card, request, max_tokens, action.hint)
            try:
                if allowance is None:
                    raise BudgetExceededError("its price is unknown")
                account.reserve(allowance)
            except BudgetExceededError as error:
                skipped[call_id] = str(error)
                continue
        calls.append(
            PlannedCall(call_id, card.name, action.hint, action.temperature, max_tokens, allowance)
        )
    return tuple(calls), skipped


def check_affordable(
    cost: Decimal | None, request: RouteRequest, cards: Sequence[ModelCard]
) -> None:
    """Money spent on a decision that leaves none for an answer is wasted.

    Raises:
        BudgetExceededError: the policy's worst case leaves too little for the cheapest call.
    """
    assert request.remaining_usd is not None
    if cost == 0:
        return
    known = [constraints.reserved_usd_for(card, request, None) for card in cards]
    least = min((amount for amount in known if amount is not None), default=Decimal(0))
    if request.answers:  # one of them can be selected at no cost
        least = Decimal(0)
    if cost is None or cost + least > request.remaining_usd:
        raise BudgetExceededError(
            f"asking the policy may cost {'an unknown sum' if cost is None else f'${cost:f}'}, "
            f"the answer at least ${least:f}, and ${request.remaining_usd:f} is left"
        )
