"""Thompson sampling per kind of request: a Beta posterior for each kind and card.

Kinds are k-means clusters of the features of the first 500 requests; until then there is one kind.
Thumbs count in full, or are forgotten by :data:`FORGETTING` a request.
"""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans

from benchmarks.stream_parts.learner import Billed, Choice, Request, Setting, Thumb
from xrouter_lg.arrays import Floats

KINDS = 4
"""The best of 4, 8 and 16, on three streams of other seeds than are reported."""
FORGETTING = 0.999
"""What is left of a thumb with every request that passes: half of it after about 700."""
DRAWS = 128
"""Of the posterior for each request. The card of one of them is asked, so that the share of draws
in which a card wins is its propensity."""
_COST_STRENGTH = 10.0
"""Answers' worth of the usual cost that a kind's own cost is mixed with."""


class PerKindThompson:
    def __init__(self, setting: Setting, *, forgetting: float = 1.0) -> None:
        self._setting, self._forgetting = setting, forgetting
        self._rng = np.random.default_rng([setting.seed, 13])
        self._centres: Floats | None = None
        self._seen: list[Floats] = []
        self._asked: dict[str, tuple[Floats, str, float]] = {}
        """SharedFeatures, card and usual USD of each request that has no thumb yet."""
        self._thumbs: list[tuple[Floats, str, bool]] = []
        self._costs: list[tuple[Floats, str, float]] = []
        """The cost of an answer over the usual one."""
        self._beta: dict[tuple[int, str], Floats] = {}
        self._ratio: dict[tuple[int, str], Floats] = {}

    def choose(self, request: Request) -> Choice:
        x = self._setting.features(request.text)
        if self._centres is None:
            self._seen.append(x)
        kind, cards = self._kind(x), sorted(request.usual_usd)
        for counts in self._beta.values() if self._forgetting < 1.0 else ():
            counts *= self._forgetting
        seen_M2 = 1.0 + np.array([self._beta.get((kind, card), np.zeros(2)) for card in cards])
        price_M = np.array(
            [
                self._setting.price(request.usual_usd[card] * self._cost_ratio(kind, card))
                for card in cards
            ]
        )
        drawn = self._rng.beta(seen_M2[:, 0], seen_M2[:, 1], (DRAWS, len(cards)))
        winners = (self._score(drawn) - price_M).argmax(1)
        pick = int(winners[0])
        mean_M = self._score(seen_M2[:, 0] / seen_M2.sum(1)) - price_M
        self._asked[request.id] = (x, cards[pick], request.usual_usd[cards[pick]])
        return Choice(
            cards[pick], float((winners == pick).mean()), explored=pick != int(mean_M.argmax())
        )

    def answered(self, billed: Billed) -> None:
        x, card, usual = self._asked[billed.id]
        ratio = billed.cost_usd / usual if usual > 0 else 1.0
        if self._centres is None:
            self._costs.append((x, card, ratio))
        self._count_cost(x, card, ratio)

    def rated(self, thumb: Thumb) -> None:
        x, card, _ = self._asked.pop(thumb.id)
        if self._centres is None:
            self._thumbs.append((x, card, thumb.up))
        self._count(x, card, thumb.up)

    def retrain(self) -> None:
        """Kinds are found once; what is known by then is counted anew under them."""
        if self._centres is not None:
            return
        found = KMeans(KINDS, n_init=4, random_state=self._setting.seed).fit(np.array(self._seen))
        self._centres = found.cluster_centers_
        self._beta.clear()
        self._ratio.clear()
        for x, card, up in self._thumbs:
            self._count(x, card, up)
        for x, card, ratio in self._costs:
            self._count_cost(x, card, ratio)

    def _kind(self, x: Floats) -> int:
        if self._centres is None:
            return 0
        return int(((self._centres - x) ** 2).sum(1).argmin())

    def _count(self, x: Floats, card: str, up: bool) -> None:
        counts = self._beta.setdefault((self._kind(x), card), np.zeros(2))
        counts += (up, not up)

    def _count_cost(self, x: Floats, card: str, ratio: float) -> None:
        sums = self._ratio.setdefault((self._kind(x), card), np.zeros(2))
        sums += (ratio, 1.0)

    def _cost_ratio(self, kind: int, card: str) -> float:
        total, answers = self._ratio.get((kind, card), np.zeros(2))
        return float((total + _COST_STRENGTH) / (answers + _COST_STRENGTH))

    def _score(self, thumbs_up: Floats) -> Floats:
        """What share of right answers gives so many thumbs up."""
        error = self._setting.thumb_error
        return (thumbs_up - error) / (1.0 - 2.0 * error)
