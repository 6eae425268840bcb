"""Rules that take a card out of a request: hard facts, applied before any policy is asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from xrouter_lg.calls.money import hint_tokens, output_tokens_for, reserved_usd
from xrouter_lg.calls.tokens import prompt_bound
from xrouter_lg.errors import NoCandidateError
from xrouter_lg.pool.card import DEFAULT_MAX_OUTPUT_TOKENS, ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.types import RouteRequest

LEAST_ANSWER_TOKENS = 16
"""Room for an answer (tokens) that a card's window must have behind the prompt."""


class Constraint(StrEnum):
    """What takes a card out of a request."""

    ALLOW = "allow"
    DENY = "deny"
    UNREACHABLE = "unreachable"
    CAPABILITY = "capability"
    CONTEXT = "context"
    CIRCUIT = "circuit"
    BUDGET = "budget"


@dataclass(frozen=True, slots=True)
class Removal:
    """The rule that removed a card; as a text, what a user reads of it."""

    rule: Constraint
    detail: str

    def __str__(self) -> str:
        return self.detail


CIRCUIT_OPEN = Removal(Constraint.CIRCUIT, "circuit open after repeated failures")


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is left of a pool for one request, and which rule removed the rest."""

    cards: tuple[ModelCard, ...]
    removed: Mapping[str, Removal]


def apply(pool: ModelPool, request: RouteRequest, is_open: Callable[[str], bool]) -> Candidates:
    """The cards that can take a request.

    A card of which nobody knows whether it can do what the request needs is removed only while
    another is known to. One whose circuit is open is removed only while another one is left: with
    nothing healthy to turn to, trying is better than refusing.

    Raises:
        NoCandidateError: nothing is left, and money is not the only reason.
    """
    removed: dict[str, Removal] = {}
    able: list[ModelCard] = []
    left: list[ModelCard] = []
    ailing: list[ModelCard] = []
    for card in pool:
        why = _hard_rule(card, request)
        if why is not None:
            removed[card.name] = why
        else:
            able.append(card)
    sure = [card for card in able if request.needs <= card.capabilities]
    for card in able:
        if sure and card not in sure:
            unsaid = min(request.needs - card.capabilities)
            removed[card.name] = Removal(
                Constraint.CAPABILITY, f"nobody says that it has capability {unsaid!r}"
            )
        elif is_open(card.name):
            ailing.append(card)
        else:
            left.append(card)
    if left:
        removed.update({card.name: CIRCUIT_OPEN for card in ailing})
    elif ailing:
        left = ailing
    else:
        raise NoCandidateError(texts(removed))
    affordable = []
    for card in left:
        why = over_budget(card, request)
        if why is None:
            affordable.append(card)
        else:
            removed[card.name] = why
    return Candidates(tuple(affordable), removed)


def texts(removed: Mapping[str, Removal]) -> dict[str, str]:
    """What is written down and shown of removed cards, by name."""
    return {name: str(why) for name, why in removed.items()}


def cheapest_that_can(
    pool: ModelPool, removed: Mapping[str, Removal], request: RouteRequest
) -> tuple[ModelCard, int] | None:
    """The card and the output tokens that what is left of the budget still pays for, when no
    card fits with its full answer; None where not even a short answer does.

    Among the cards that only their price removed, the one that could answer at most length.
    """
    best: tuple[ModelCard, int] | None = None
    for card in pool:
        why = removed.get(card.name)
        if card.effective_price is None or why is None or why.rule is not Constraint.BUDGET:
            continue
        assert request.remaining_usd is not None
        pays_for = request.remaining_usd / request.overruns.get(card.name, 1)
        room = output_tokens_for(card, pays_for, bound_for(card, request), request.bound)
        cap = output_cap(card, request)
        tokens = cap if room is None else min(room, cap)
        if tokens >= LEAST_ANSWER_TOKENS and (best is None or tokens > best[1]):
            best = card, tokens
    return best


def output_cap(card: ModelCard, request: RouteRequest) -> int:
    """The longest answer (tokens) that a budget has to reckon with for this card."""
    cap = card.max_output_tokens or DEFAULT_MAX_OUTPUT_TOKENS
    if request.max_tokens is not None:
        cap = min(cap, request.max_tokens)
    if card.context_window is not None:
        cap = min(cap, max(LEAST_ANSWER_TOKENS, card.context_window - request.prompt_tokens))
    return cap


def bound_for(card: ModelCard, request: RouteRequest) -> int:
    """The most tokens that a card can count for the request's prompt."""
    return prompt_bound(card, request.prompt_tokens_max, request.images, request.needs)


def reserved_usd_for(
    card: ModelCard, request: RouteRequest, max_tokens: int | None, hint: str | None = None
) -> Decimal | None:
    """What a call has to set aside (USD): its worst case, with the hint that the worker gets on
    top of the user's messages. None where its price is unknown, and the budget says nothing of
    such calls."""
    bound = bound_for(card, request) + hint_tokens(hint)
    tokens = max_tokens or output_cap(card, request)
    priced = reserved_usd(card, bound, tokens, request.bound, request.overruns)
    return request.unpriced_usd if priced is None else priced


def _hard_rule(card: ModelCard, request: RouteRequest) -> Removal | None:
    if request.allow is not None and card.name not in request.allow:
        return Removal(Constraint.ALLOW, "not in the request's allow list")
    if card.name in request.deny:
        return Removal(Constraint.DENY, "in the request's deny list")
    if card.name in request.unreachable:
        return Removal(
            Constraint.UNREACHABLE,
            "joined the pool after this graph was built; build the graph again",
        )
    for need in sorted(request.needs):
        if card.lacks(need):
            return Removal(Constraint.CAPABILITY, f"has no capability {need!r}")
    window = card.context_window
    if window is not None and request.prompt_tokens + LEAST_ANSWER_TOKENS > window:
        return Removal(
            Constraint.CONTEXT,
            f"context too long: about {request.prompt_tokens} tokens of prompt for a window of "
            f"{window}",
        )
    return None


def over_budget(card: ModelCard, request: RouteRequest) -> Removal | None:
    """Why a card's worst case does not fit into what is left; None where it does."""
    if request.remaining_usd is None:
        return None
    worst = reserved_usd_for(card, request, None)
    if worst is None:
        return Removal(
            Constraint.BUDGET,
            "budget: its price is unknown, so a limit can't be kept; add a price, or let each such "
            "call count Budget(unpriced_usd=)",
        )
    if worst > request.remaining_usd:
        return Removal(
            Constraint.BUDGET, f"budget: may cost ${worst:f}, ${request.remaining_usd:f} is left"
        )
    return None
