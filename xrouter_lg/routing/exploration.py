"""Exploring: which card a request is drawn for, with what probability, and what it may cost.

With rate e and the favourite f of C cards that may be drawn, a card m is called with

    p_m = (1 - e) · [m = f] + e · s_m,    s_m = (1 - floor) · chance_m + floor / C,

where chance_m are the policy's probabilities to explore by (``Proposal.explore``). For a policy
that has none s_m is half its own probabilities and half even. One draw is made from p, so that the
propensity on record is p of the card that was drawn, whatever had been taken out before.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from xrouter_lg.errors import ConfigurationError
from xrouter_lg.types import Proposal

_EVEN = 0.5
"""Even part of a draw by a policy that does not know its uncertainty."""


@dataclass(frozen=True, slots=True)
class Exploration:
    """How a router explores.

    ``rate`` of the requests are drawn by what the policy does not know, the rest go to its
    favourite. ``floor`` is the part of those draws that is even, so that every card that may be
    called has a propensity above zero. ``share_of_spend`` bounds what exploring costs: what the
    explored calls were expected to cost above the favourite stays below that share of all that
    settled requests have cost. Where the dearest candidate would go beyond it, the draw is among
    the cards that are expected to cost no more than the favourite, and a card of unknown cost is
    not drawn. Savings by cheaper cards are not set against it. The account is the process's own
    and starts empty, so that a new process draws no dearer card before it has spent something.
    None: no bound.

    Raises:
        ConfigurationError: a number outside [0, 1].
    """

    rate: float = 0.05
    share_of_spend: float | None = 0.1
    floor: float = 0.1

    def __post_init__(self) -> None:
        for name in ("rate", "floor", "share_of_spend"):
            value = getattr(self, name)
            if not (name == "share_of_spend" and value is None) and not _is_share(value):
                raise ConfigurationError(
                    f"Exploration.{name} is {value!r}; it must be a number in [0, 1]"
                )


def as_exploration(value: float | Exploration) -> Exploration:
    """What a router's option says; a number alone is a rate without a bound on what it costs.

    Raises:
        ConfigurationError: neither, or a number outside [0, 1].
    """
    if isinstance(value, Exploration):
        return value
    if not _is_share(value):
        raise ConfigurationError(
            f"exploration is {value!r}; it must be a number in [0, 1], or an Exploration"
        )
    return Exploration(rate=value, share_of_spend=None)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A card, and what it was drawn from."""

    card: str
    propensity: float = 1.0
    explored: bool = False
    probabilities: Mapping[str, float] | None = None
    """Of every card that could be drawn; None where there was nothing to draw."""


class Explorer:
    """Draws cards and keeps the account of what that costs: two sums, whatever the traffic.
    Thread-safe."""

    def __init__(self, options: Exploration, source: random.Random) -> None:
        self.options = options
        self._random = source
        self._lock = threading.Lock()
        self._extra_usd = 0.0
        self._spent_usd = 0.0

    @property
    def extra_usd(self) -> float:
        """What explored calls were expected to cost above the favourites (USD)."""
        return self._extra_usd

    @property
    def spent_usd(self) -> float:
        """What settled requests have cost (USD), as far as known."""
        return self._spent_usd

    def draw(
        self, cards: Sequence[str], proposal: Proposal, cost_usd: Mapping[str, float | None]
    ) -> Drawn:
        """One of ``cards``, of which the first is the favourite; all can be paid. ``cost_usd`` is
        what each is expected to cost, None where unknown.

        What is drawn is on the account at once: of requests at the same time each sees the others.
        """
        if not self.options.rate or len(cards) == 1:
            return Drawn(cards[0])
        with self._lock:
            extra = self._extra_of(cards, cost_usd)
            chances = _probabilities(list(extra), proposal, self.options)
            card = self._random.choices(list(chances), weights=list(chances.values()))[0]
            self._extra_usd += extra[card]
        return Drawn(card, chances[card], card != cards[0], chances)

    def settle(self, usd: Decimal | str) -> None:
        """Put a finished request's known cost (USD) on the account."""
        with self._lock:
            self._spent_usd += float(usd)

    def _extra_of(
        self, cards: Sequence[str], cost_usd: Mapping[str, float | None]
    ) -> dict[str, float]:
        """The cards that may be drawn now, with what each costs above the favourite (USD)."""
        base, share = cost_usd.get(cards[0]), self.options.share_of_spend
        extra = {cards[0]: 0.0}
        for name in cards[1:]:
            usd = cost_usd.get(name)
            if usd is not None and base is not None:
                extra[name] = max(usd - base, 0.0)
            elif share is None:
                extra[name] = 0.0
        if share is None or self._extra_usd + max(extra.values()) <= share * self._spent_usd:
            return extra
        return {name: usd for name, usd in extra.items() if usd == 0.0}


def _probabilities(
    cards: Sequence[str], proposal: Proposal, options: Exploration
) -> dict[str, float]:
    """p of the module's docstring; ``cards`` begin with the favourite."""
    chances, even = proposal.explore, options.floor
    if chances is None:
        chances, even = proposal.probabilities, _EVEN
    mass = math.fsum(chances.get(name, 0.0) for name in cards)
    if mass <= 0.0:
        even, mass = 1.0, 1.0
    others = {
        name: options.rate * ((1.0 - even) * chances.get(name, 0.0) / mass + even / len(cards))
        for name in cards[1:]
    }
    # What is left, so that rounding makes no probability of more than 1.
    return {cards[0]: max(1.0 - math.fsum(others.values()), 0.0), **others}


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0
