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
from xrouter_lg.types import NEXT_IN_ORDER

UNROUTED = "not routed"
SEVERAL_TURNS = "several turns"
SEVERAL_CALLS = "several calls"
INSTEAD = "called instead of the card that was drawn"
UNTOLD = "not told by the policy"
CONTRADICTS = "contradicts the log"

_EXACT = 1e-6
"""Rounding of a policy's own arithmetic."""


def logged_propensity(episode: Episode) -> tuple[float | None, str]:
    """The probability, in (0, 1], with which the one card of the request was called; else None and
    why nobody knows it. A choice that could not have gone otherwise has 1.

    A number contradicts the log where it is no probability; where a card that was drawn against
    the policy's favourite is said to be certain, or likelier than anything is drawn at all; and
    where a card was called, without being drawn, that is neither the favourite nor has that number
    as its logged score (a policy that draws by itself draws from its scores). A favourite is called
    at least whenever nothing is drawn: without exploration its number is 1 or its score.
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
    if NEXT_IN_ORDER in str(decision.get("reason")):
        # What was certain stays so: the budget leaves no choice either.
        return (1.0, "") if propensity >= 1.0 else (None, INSTEAD)
    if not decision.get("policy_error") and _contradicts(propensity, card, decision, episode):
        return None, CONTRADICTS
    return min(float(propensity), 1.0), ""


def _contradicts(
    propensity: float, card: str, decision: Mapping[str, Any], episode: Episode
) -> bool:
    scores, rate = episode.scores, decision.get("exploration")
    if decision.get("explored"):
        return propensity > min(1.0 if rate is None else rate, 1.0 - _EXACT) + _EXACT / 2
    if card not in scores:
        return False
    score, mass = scores[card], sum(scores.values()) or 1.0
    if any(math.isclose(propensity, own, abs_tol=_EXACT) for own in (score, score / mass)):
        return False
    if score < max(scores.values()) - _EXACT:
        return True
    # A record that does not say how much was explored can't be held to it.
    return rate is not None and propensity < 1.0 - rate - _EXACT
