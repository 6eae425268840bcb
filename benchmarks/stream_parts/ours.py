"""The package's value model, were it to learn from every thumb as it comes in: what a night of
`xrouter learn` leaves on the table (:mod:`benchmarks.stream_parts.shipped` is the loop as it is).

It begins with the cheapest card, as list prices are all that it knows, and explores at most 5 % of
the requests: many at the start, when a card joins and when one has changed
(:class:`benchmarks.stream_parts.explore.Allowance`).
"""

from __future__ import annotations

import numpy as np

from benchmarks.stream_parts.explore import DRAWS, Allowance, ask_chances
from benchmarks.stream_parts.learner import Billed, Choice, Request, Setting, Thumb
from benchmarks.stream_parts.online_value import OnlineValue
from xrouter_lg.arrays import Floats

ON_JOIN, ON_CHANGE = 80.0, 60.0
"""Requests that are explored more when a card joins, and when one has changed."""


class XRouter:
    def __init__(self, setting: Setting, value: OnlineValue | None = None) -> None:
        self._setting = setting
        self.value = value or OnlineValue(sorted(setting.usual_usd))
        self._allowance = Allowance()
        self._rng = np.random.default_rng([setting.seed, 17])
        self._normal_D_Z = self._rng.standard_normal((DRAWS, 0))
        self._usual: dict[str, float] = {}
        self._now = 0

    def choose(self, request: Request) -> Choice:
        self._now = request.at
        for card in request.usual_usd.keys() - set(self.value.cards):
            self.value.join(card)
            self._allowance.grant(ON_JOIN)
        cards, found = self.value.cards, self.value.outlook(request.text)
        price_M = np.array(
            [self._setting.price(request.usual_usd.get(card, np.inf)) for card in cards]
        )
        utility_M = found.mean_M - price_M * found.cost_ratio_M
        greedy = int(utility_M.argmax())
        chances_M = ask_chances(
            utility_M, found.root_M_Z, self._draws(found.root_M_Z.shape[1]), greedy,
            self._allowance.most,
        )  # fmt: skip
        pick = int(self._rng.choice(len(cards), p=chances_M))
        self._allowance.spend(1.0 - chances_M[greedy])
        self.value.asked(request.id, request.text, cards[pick], request.at)
        self._usual[request.id] = request.usual_usd[cards[pick]]
        return Choice(cards[pick], float(chances_M[pick]), explored=pick != greedy)

    def answered(self, billed: Billed) -> None:
        usual = self._usual.pop(billed.id)
        ratio = billed.cost_usd / usual if usual > 0 else None
        if self.value.answered(billed.id, ratio, billed.served_model) is not None:
            self._allowance.grant(ON_CHANGE)

    def rated(self, thumb: Thumb) -> None:
        alarms = self.value.scored(thumb.id, float(thumb.up), self._setting.thumb_error, self._now)
        for _ in alarms:
            self._allowance.grant(ON_CHANGE)

    def retrain(self) -> None:
        self.value.retrain()

    def _draws(self, width: int) -> Floats:
        missing = width - self._normal_D_Z.shape[1]
        if missing > 0:
            more = self._rng.standard_normal((DRAWS, missing))
            self._normal_D_Z = np.hstack([self._normal_D_Z, more])
        return self._normal_D_Z[:, :width]
