"""What is compared: scores and costs of the same held-out requests, by recorded truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from integrations.demo.questions import Question
from integrations.demo.replay import RecordedModels
from integrations.demo.workers import CARDS
from xrouter_lg.arrays import Floats
from xrouter_lg.figures.bootstrap import Figure, bootstrap_means, figure

DRAWS = 2000


@dataclass(frozen=True)
class Arm:
    """One way of answering the held-out requests."""

    name: str
    score: Floats
    """[N]; of a shuffle the expectation."""
    cost: Floats
    """[N] USD."""
    shares: dict[str, float]
    """Share of the requests per card."""

    def utility(self, cost_weight: float, c_ref: float) -> Floats:
        """[N] score − λ · cost / c_ref."""
        value: Floats = self.score - cost_weight * self.cost / c_ref
        return value


@dataclass(frozen=True)
class Truth:
    """What each card would have answered to N requests, and at what cost, in one state of the
    world."""

    score: dict[str, Floats]
    cost: dict[str, Floats]
    """USD."""

    @classmethod
    def of(cls, models: RecordedModels, questions: Sequence[Question]) -> Truth:
        asked = [question.prompt for question in questions]
        return cls(
            {c: np.array([models.answer(m, p).score for p in asked]) for c, m in CARDS.items()},
            {c: np.array([models.usd(m, p) for p in asked]) for c, m in CARDS.items()},
        )

    def fixed(self) -> list[Arm]:
        """Each card for all."""
        return [self.arm(f"always {card}", [card] * len(self.score[card])) for card in CARDS]

    def arm(self, name: str, routes: Sequence[str]) -> Arm:
        """These cards, request by request."""
        rows = list(enumerate(routes))
        return Arm(
            name,
            np.array([self.score[card][row] for row, card in rows]),
            np.array([self.cost[card][row] for row, card in rows]),
            {card: routes.count(card) / len(routes) for card in sorted(set(routes))},
        )

    def shuffled(self, arm: Arm) -> Arm:
        """The arm's own routes dealt to the wrong requests, in expectation over all deals: what it
        would be worth if it knew how often each card is needed, and not when."""
        score, cost = np.zeros((2, len(arm.score)))
        for card, share in arm.shares.items():
            score, cost = score + share * self.score[card], cost + share * self.cost[card]
        return Arm("its shuffle", score, cost, dict(arm.shares))


def interval(values: Floats) -> Figure:
    """Mean of [N] values with its bootstrap interval; draws are the same for every call."""
    return figure(bootstrap_means(values[None, :], draws=DRAWS, seed=0)[:, 0])
