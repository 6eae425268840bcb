"""What is compared: scores, costs and routes of the same held-out requests, prompt by prompt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from integrations.demo.app import Served
from integrations.demo.recorded.record import asked
from integrations.demo.recorded.scores import Scorer
from integrations.demo.recorded.task import SOURCE
from xrouter_lg.arrays import Floats
from xrouter_lg.figures.bootstrap import Figure, bootstrap_means, figure
from xrouter_lg.outcomes import OutcomeTable

DRAWS = 2000


@dataclass(frozen=True)
class Arm:
    """One way of answering the held-out requests."""

    name: str
    score: Floats
    """[N]; of a shuffle the expectation."""
    cost: Floats
    """[N] USD, the router's own tokens included."""
    router: Floats
    """[N] USD of the router alone."""
    shares: dict[str, float]
    """Share of the requests per card."""

    def utility(self, cost_weight: float, c_ref: float) -> Floats:
        """[N] score − λ · cost / c_ref."""
        value: Floats = self.score - cost_weight * self.cost / c_ref
        return value


def arm_of(
    name: str, served: Sequence[Served], scores: Floats, *, router_usd_per_million: float = 0.0
) -> Arm:
    """An arm from answered requests; the router's tokens are priced here."""
    router = np.array([one.router_tokens for one in served]) * router_usd_per_million / 1e6
    cards = [one.card for one in served]
    return Arm(
        name,
        scores,
        np.array([one.cost_usd for one in served]) + router,
        router,
        {card: cards.count(card) / len(cards) for card in sorted(set(cards))},
    )


def shuffled(arm: Arm, fixed: dict[str, Arm]) -> Arm:
    """The arm's own routes dealt to the wrong requests, in expectation over all deals: what it
    would be worth if it knew how often each card is needed, and not when."""
    mixed = [(share, fixed[card]) for card, share in arm.shares.items()]
    return Arm(
        f"shuffle of {arm.name}",
        sum((share * one.score for share, one in mixed), np.zeros_like(arm.score)),
        sum((share * one.cost for share, one in mixed), np.zeros_like(arm.cost)) + arm.router,
        arm.router,
        dict(arm.shares),
    )


def interval(values: Floats) -> Figure:
    """Mean of [N] values with its bootstrap interval; draws are the same for every call."""
    return figure(bootstrap_means(values[None, :], draws=DRAWS, seed=0)[:, 0])


def scores_of(judge: Scorer, served: Sequence[Served]) -> Floats:
    """[N] scores; NaN where no verdict was possible (no sandbox for code on this machine)."""
    found = judge.verdicts((s.question.task, s.answer, s.question.reference) for s in served)
    return np.array([np.nan if one.score is None else one.score for one in found])


def write_table(arms: dict[str, Arm], served: dict[str, Sequence[Served]], folder: Path) -> None:
    """The held-out requests as an outcome table: what ``xrouter judge`` judges on. ``arms`` and
    ``served`` are those of the fixed cards."""
    outcomes, prompts = [], []
    for row, one in enumerate(next(iter(served.values()))):
        question = one.question
        key = {"source": SOURCE, "task": question.task, "prompt_id": question.prompt_id}
        prompts.append(
            {
                **key,
                "prompt": question.prompt,
                "category": question.task,
                "meta": json.dumps({"messages": asked(question.prompt)}),
            }
        )
        for card, arm in arms.items():
            outcomes.append(
                {
                    **key,
                    "model": card,
                    "score": float(arm.score[row]),
                    "cost_usd": float(arm.cost[row]),
                    "response": served[card][row].answer,
                }
            )
    OutcomeTable.from_rows(outcomes, prompts).write(folder)
