"""Linear bandits: one ridge regression of thumbs on features per card (disjoint LinUCB, Li et al.
2010; linear Thompson sampling, Agrawal and Goyal 2013). Nothing is forgotten.

Features are scaled so that those beside the constant have a length of about one. Prices come off
the estimate as they are today.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from benchmarks.stream_parts.learner import Billed, Choice, Request, Setting, Thumb
from xrouter_lg.arrays import Floats

BOUND_WIDTH, POSTERIOR_WIDTH = 0.1, 0.2
"""In thumbs, of LinUCB and of linear Thompson sampling: for each the best of 0.1, 0.2, 0.3 and 0.5
on three streams of other seeds than are reported."""
DRAWS = 128


class _Rule(Protocol):
    def __call__(
        self, mean: Floats, width: Floats, price: Floats, rng: np.random.Generator
    ) -> tuple[int, float]:
        """Which card, and how likely that was; everything [M], in thumbs up."""


class _Ridge:
    def __init__(self, setting: Setting, rule: _Rule, width: float) -> None:
        self._rule, self._width = rule, width
        self._setting = setting
        self._rng = np.random.default_rng([setting.seed, 14])
        self._asked: dict[str, tuple[Floats, str]] = {}
        self._inverse: dict[str, Floats] = {}
        self._sum: dict[str, Floats] = {}

    def choose(self, request: Request) -> Choice:
        x, cards = self._features(request.text), sorted(request.usual_usd)
        for card in cards:
            if card not in self._inverse:
                self._inverse[card], self._sum[card] = np.eye(len(x)), np.zeros(len(x))
        error = self._setting.thumb_error
        inverse = np.stack([self._inverse[card] for card in cards])
        leaning = inverse @ x
        # A card that nobody has rated is taken for a coin, as the others are at their start.
        mean = 0.5 + (leaning * np.stack([self._sum[card] for card in cards])).sum(1)
        width = self._width * np.sqrt(np.maximum(leaning @ x, 0.0))
        price = np.array([self._setting.price(request.usual_usd[card]) for card in cards])
        pick, propensity = self._rule(mean, width, (1.0 - 2.0 * error) * price, self._rng)
        best = int((mean - (1.0 - 2.0 * error) * price).argmax())
        self._asked[request.id] = (x, cards[pick])
        return Choice(cards[pick], propensity, explored=pick != best)

    def answered(self, billed: Billed) -> None:
        """Prices are known; what one answer cost adds nothing."""

    def rated(self, thumb: Thumb) -> None:
        x, card = self._asked.pop(thumb.id)
        inverse = self._inverse[card]
        leaning = inverse @ x
        self._inverse[card] = inverse - np.outer(leaning, leaning) / (1.0 + x @ leaning)
        self._sum[card] += (thumb.up - 0.5) * x

    def retrain(self) -> None:
        """It learned with every thumb."""

    def _features(self, text: str) -> Floats:
        x = self._setting.features(text).copy()
        x[:-1] /= np.sqrt(len(x) - 1)
        return x


class LinUCB(_Ridge):
    """The card whose upper confidence bound is highest: certain, given the past."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, _highest_bound, BOUND_WIDTH)


class LinearThompson(_Ridge):
    """The card that is best in one of :data:`DRAWS` draws of the posterior."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting, _one_draw, POSTERIOR_WIDTH)


def _highest_bound(
    mean: Floats, width: Floats, price: Floats, rng: np.random.Generator
) -> tuple[int, float]:
    return int((mean + width - price).argmax()), 1.0


def _one_draw(
    mean: Floats, width: Floats, price: Floats, rng: np.random.Generator
) -> tuple[int, float]:
    drawn = mean + width * rng.standard_normal((DRAWS, len(mean)))
    winners = (drawn - price).argmax(1)
    return int(winners[0]), float((winners == winners[0]).mean())
