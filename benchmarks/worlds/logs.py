"""Logs as users have them, made of a table in which every outcome is known.

A request is a prompt of the table, its log shows the answer of the one card that was called, and
some answers have a thumb, now and then a wrong one. What was not called, nobody sees.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.figures.metrics import Reference
from xrouter_lg.outcomes.grid import OutcomeGrid

Kind = Literal["uniform", "rules", "flagship"]


@dataclass(frozen=True)
class LogSettings:
    """How requests were sent, and what users said."""

    kind: Kind
    """uniform: any card; rules: long prompts to the best card, others to the cheapest; flagship:
    the best card for all."""
    exploration: float
    """Probability of any card instead."""
    thumbs: float = 0.3
    """Share of answers that get a thumb."""
    wrong: float = 0.1
    """Share of thumbs that say the opposite."""

    def chances(self, table: OutcomeGrid, reference: Reference) -> Floats:
        """[N, M] probability with which each card is called."""
        n, m = table.score.shape
        rule = np.full((n, m), 1.0 / m)
        if self.kind != "uniform":
            chosen = np.full(n, reference.best_fixed)
            if self.kind == "rules":
                length = np.array([len(prompt) for prompt in table.prompts])
                chosen[length <= np.median(length)] = reference.cheapest
            rule = np.eye(m)[chosen]
        chances: Floats = (1.0 - self.exploration) * rule + self.exploration / m
        return chances


@dataclass(frozen=True)
class Log:
    """A log, and what nobody but the judge knows of it."""

    table: OutcomeGrid
    """What users have: one card's cost per request, and a score where somebody said something."""
    called: Ints
    """[N]"""


def make_log(
    truth: OutcomeGrid, settings: LogSettings, reference: Reference, *, requests: int, seed: int
) -> Log:
    """So many requests, drawn from the table's prompts in repeated shuffles."""
    rng = np.random.default_rng(seed)
    rounds = -(-requests // len(truth))
    rows = np.concatenate([rng.permutation(len(truth)) for _ in range(rounds)])[:requests]
    chances = settings.chances(truth, reference)[rows]
    called = (chances.cumsum(1) > rng.random(requests)[:, None]).argmax(1).astype(np.int64)
    every = np.arange(requests)
    up = rng.random(requests) < truth.score[rows, called]
    up ^= rng.random(requests) < settings.wrong
    said = rng.random(requests) < settings.thumbs
    shape = (requests, len(truth.models))
    score, cost, propensity = (np.full(shape, np.nan) for _ in range(3))
    by = np.full(shape, None, dtype=object)
    score[every[said], called[said]] = up[said]
    cost[every, called] = truth.cost[rows, called]
    propensity[every, called] = chances[every, called]
    by[every, called] = "feedback"
    table = dataclasses.replace(
        truth.rows(rows[:0]),
        keys=tuple(("log", "traces", str(number)) for number in range(requests)),
        prompts=tuple(truth.prompts[row] for row in rows),
        families=("log|traces|",) * requests,
        score=score,
        cost=cost,
        more={"propensity": propensity, "scored_by": by},
        about={},
    )
    return Log(table, called)
