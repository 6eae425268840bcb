"""A world in which little is known: what old rules have logged, and fresh requests to try.

A full outcome table is the truth. It is dealt into prompts that were logged, fresh ones and
held-out ones. Of the logged ones a learner sees what the old router's rule has seen; of the fresh
ones what it asks for. Held-out prompts are for the figures alone.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.data.outcome_source import RecordedOutcomes
from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.outcomes.grid import OutcomeGrid

Rule = Literal["rules", "flagship", "swap"]
RULES: tuple[Rule, ...] = ("rules", "flagship", "swap")

LOG_SHARE, FRESH_SHARE = 0.3, 0.35
"""Of all prompts; the rest is held out."""
_STRAY_SHARE = 0.05
"""Logged requests under ``rules`` that went to a card at random: somebody tried one."""
_OTHERS_SHARE = 0.1
"""Logged requests under ``flagship`` that did not go to the best card."""


@dataclass(frozen=True)
class World:
    """Rows of ``table`` (the truth of today), and what the logs say of them."""

    table: OutcomeGrid
    logs: Ints
    fresh: Ints
    test: Ints
    logged_N_M: Floats
    """[N, M] scores in the logs; NaN where nothing was logged."""
    c_ref_usd: float
    """What the best fixed model costs, in the world of the logs: the unit of the cost weight."""

    @property
    def known_prompts(self) -> Ints:
        """Rows that a learner may ever see."""
        return np.concatenate([self.logs, self.fresh])

    @property
    def expected_usd_M(self) -> Floats:
        """[M] what every arm expects a card to cost: prices are known, scores are the question."""
        mean: Floats = self.table.cost[self.known_prompts].mean(0)
        return mean


def world_of(table: OutcomeGrid, rule: Rule, split: int) -> World:
    """Deal a table.

    - ``rules``: one card answered each logged request, as a router of rules chose it: the dearest
      for what has a number in it or is among the longest third, of the rest the cheapest for the
      shorter half and a middle one for the longer. Hard requests went to the strong card, so the
      logs flatter the weak ones.
    - ``flagship``: one card answered each: the best one on average, one time in ten another.
    - ``swap``: logs of everything, but the best card has since become, at the same price, as good
      as the cheapest: somebody swapped what is behind the name.
    """
    rng = np.random.default_rng([split, RULES.index(rule)])
    order = np.random.default_rng(split).permutation(len(table))
    logs, fresh, test = np.split(
        order, [round(LOG_SHARE * len(table)), round((LOG_SHARE + FRESH_SHARE) * len(table))]
    )
    c_ref = table.rows(np.concatenate([logs, fresh])).reference_cost()
    if rule == "swap":
        today = table.score.copy()
        today[:, table.best_fixed()] = table.score[:, table.cheapest()]
        logged = np.full_like(today, np.nan)
        logged[logs] = table.score[logs]
        return World(dataclasses.replace(table, score=today), logs, fresh, test, logged, c_ref)
    card_N = _flagship(table, rng) if rule == "flagship" else _by_rules(table, rng)
    logged = np.full_like(table.score, np.nan)
    logged[logs, card_N[logs]] = table.score[logs, card_N[logs]]
    return World(table, logs, fresh, test, logged, c_ref)


def _by_rules(table: OutcomeGrid, rng: np.random.Generator) -> Ints:
    dearness = np.argsort(table.cost.mean(0))
    length_N = np.array([len(prompt) for prompt in table.prompts])
    hard_N = np.array([bool(re.search(r"\d", prompt)) for prompt in table.prompts])
    hard_N |= length_N > np.quantile(length_N, 2 / 3)
    short_N = length_N <= np.median(length_N[~hard_N]) if (~hard_N).any() else ~hard_N
    middle = dearness[len(dearness) // 2]
    card_N = np.where(hard_N, dearness[-1], np.where(short_N, dearness[0], middle))
    stray_N = rng.random(len(table)) < _STRAY_SHARE
    return np.where(stray_N, rng.integers(0, len(table.models), len(table)), card_N)


def _flagship(table: OutcomeGrid, rng: np.random.Generator) -> Ints:
    best, cards = table.best_fixed(), len(table.models)
    other_N = (best + rng.integers(1, cards, len(table))) % cards
    return np.where(rng.random(len(table)) < _OTHERS_SHARE, other_N, best)


class Revealing(RecordedOutcomes):
    """A table that can be asked about everything, and remembers what it was asked."""

    def __init__(self, table: OutcomeGrid) -> None:
        super().__init__(table.score, table.cost)
        self.revealed: Bools = np.zeros(table.score.shape, dtype=np.bool_)

    def ask(self, prompt_B: Ints, card_B: Ints) -> tuple[Floats, Floats]:
        self.revealed[prompt_B, card_B] = True
        return super().ask(prompt_B, card_B)


def at_random(world: World, outcomes: int, rng: np.random.Generator) -> Bools:
    """[N, M] so many pairs of fresh prompt and card, each as likely as any other."""
    cards = len(world.table.models)
    chosen = rng.choice(len(world.fresh) * cards, outcomes, replace=False)
    pairs = np.zeros(world.table.score.shape, dtype=np.bool_)
    pairs[world.fresh[chosen // cards], chosen % cards] = True
    return pairs
