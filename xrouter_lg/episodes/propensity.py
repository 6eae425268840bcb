"""With what probability the logging policy called the card that answered.

Estimates that weigh by it are confidently wrong where it is, so it is known only where the record
leaves no doubt: one turn, one call, of the card that was drawn, by a number that fits what else the
record says.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from xrouter_lg.episodes.episode import Episode

UNROUTED = "not routed"
SEVERAL_TURNS = "several turns"
SEVERAL_CALLS = "several calls"
INSTEAD = "called instead of the card that was drawn"
UNTOLD = "not told by the policy"
CONTRADICTS = "contradicts the log"

_NEXT_IN_ORDER = "next in order"
"""In the reason of a decision whose first choice did not fit into the budget."""
_EXACT = 1e-6
"""Rounding of a policy's own arithmetic."""


def logged_propensity(episode: Episode) -> tuple[float | None, str]:
    """The probability, in (0, 1], with which the one card of the request was called; else None and
    why nobody knows it. A choice that could not have gone otherwise has 1.

    A number contradicts the log where it is no probability, or not the one that the router drew
    this card with; where a card that was drawn against the policy's favourite is said to be
    certain; and where a card that the router did not draw is neither the favourite nor has that
    number as its logged score (a policy that draws by itself draws from its scores). A favourite
    that nobody drew has 1 or its score.
    """
    if not episode.routed:
        return None, UNROUTED
    if len(episode.decisions) != 1:
        return None, SEVERAL_TURNS if episode.decisions else UNTOLD
    decision = episode.decisions[0]
    planned: list[Mapping[str, Any]] = list(decision.get("calls") or [])
    if len(planned) != 1 or len(episode.calls) != 1:
        return None, SEVERAL_CALLS
    propensity = decision.get("propensity")
    if propensity is None:
        return None, UNTOLD
    if not isinstance(propensity, int | float) or not 0.0 < propensity <= 1.0 + _EXACT:
        return None, CONTRADICTS
    card = episode.calls[0].card
    if planned[0].get("card") != card:
        return None, INSTEAD
    drawn_from = decision.get("explore") or {}
    if card in drawn_from and _equal(propensity, drawn_from[card]):
        return min(float(propensity), 1.0), ""
    if _NEXT_IN_ORDER in str(decision.get("reason")):
        # What was certain stays so: the budget leaves no choice either.
        return (1.0, "") if propensity >= 1.0 else (None, INSTEAD)
    if drawn_from or (
        not decision.get("policy_error")
        and _contradicts(propensity, decision, card, episode.scores)
    ):
        return None, CONTRADICTS
    return min(float(propensity), 1.0), ""


def _contradicts(
    propensity: float, decision: Mapping[str, Any], card: str, scores: Mapping[str, float]
) -> bool:
    """Whether a number is impossible for a card that is in no recorded draw."""
    # A record that does not say what was drawn from can't be held to it.
    nothing_drawn = "explore" in decision
    if decision.get("explored"):
        return nothing_drawn or propensity > 1.0 - _EXACT
    if card not in scores:
        return False
    score, mass = scores[card], sum(scores.values()) or 1.0
    if _equal(propensity, score) or _equal(propensity, score / mass):
        return False
    if score < max(scores.values()) - _EXACT:
        return True
    return nothing_drawn and propensity < 1.0 - _EXACT


def _equal(one: float, other: float) -> bool:
    return math.isclose(one, other, abs_tol=_EXACT)
