"""Epsilon-greedy over all traffic: one mean per card, whatever is asked."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from benchmarks.stream_parts.learner import Billed, Choice, Request, Setting, Thumb

EPSILON = 0.05


class EpsilonGreedy:
    """The card with the best mean of thumbs, less what it usually costs; one time in twenty any.

    A card begins with one thumb up and one down.
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._rng = np.random.default_rng([setting.seed, 12])
        self._card: dict[str, str] = {}
        self._ups: dict[str, float] = defaultdict(lambda: 1.0)
        self._thumbs: dict[str, float] = defaultdict(lambda: 2.0)

    def choose(self, request: Request) -> Choice:
        cards = sorted(request.usual_usd)
        best = max(cards, key=lambda card: self._utility(card, request))
        card, floor = best, EPSILON / len(cards)
        if self._rng.random() < EPSILON:
            card = cards[self._rng.integers(len(cards))]
        propensity = 1.0 - EPSILON + floor if card == best else floor
        self._card[request.id] = card
        return Choice(card, propensity, explored=card != best)

    def answered(self, billed: Billed) -> None:
        """Prices are known; what one answer cost adds nothing."""

    def rated(self, thumb: Thumb) -> None:
        card = self._card.pop(thumb.id)
        self._ups[card] += thumb.up
        self._thumbs[card] += 1.0

    def retrain(self) -> None:
        """It learned with every thumb."""

    def _utility(self, card: str, request: Request) -> float:
        error = self._setting.thumb_error
        score = (self._ups[card] / self._thumbs[card] - error) / (1.0 - 2.0 * error)
        return score - self._setting.price(request.usual_usd[card])
