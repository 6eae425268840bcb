"""What plans of several calls come to on recorded answers: nothing is called for it.

What is learned is not a table of plans but a model of answers (:mod:`xrouter_lg.fitting.cascade`),
out of which the policy plans when it is asked; here its plans are carried out on a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.checkpoints.cascade_model import AnswerModel
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.figures.curve import DIAL, Curve, static_mix_curve
from xrouter_lg.figures.metrics import Reference, resample
from xrouter_lg.fitting.cascade import Recorded, fit_answers
from xrouter_lg.fitting.read_lesson import LessonSettings, read_table
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split
from xrouter_lg.policies.cascade.planner import Planner, Values
from xrouter_lg.policies.cascade.policy import Plans, rounds_of


@dataclass(frozen=True)
class Course:
    """What was done about one prompt."""

    called: tuple[int, ...]
    """Cards in the order of their calls."""
    taken: int
    """The card whose answer was returned."""


def follow(
    planner: Planner,
    values: Values,
    shares: Sequence[float],
    group_M: Ints,
    length_M: Ints,
    rounds: int,
) -> Course:
    """Carry a plan out on one prompt's recorded answers, as the policy does when it serves."""
    called = list(values.first)
    at = planner.model.length_bin(shares, called, [int(length_M[card]) for card in called])
    for left in range(rounds, -1, -1):
        state, seats = planner.state(called, [int(group_M[card]) for card in called])
        further = planner.next_card(values, state, at, left)
        if further is None:
            break
        called.append(further)
    group = int(values.group_T_B[state, at])
    alike = [card for card, seat in zip(called, seats, strict=True) if seat == group]
    return Course(tuple(called), max(alike, key=lambda card: values.single[card]))


def courses(
    plans: Plans,
    cards: Sequence[int],
    shares: Sequence[Sequence[float]],
    recorded: Recorded,
    cost_weight: float,
    turns: int,
) -> list[Course]:
    """What is done about each of N prompts whose candidates are these cards (numbers of the
    model); ``shares`` are the prompts' kind shares, ``recorded`` their answers by number."""
    planner, rounds = plans.planner(cards, turns), rounds_of(turns)
    return [
        follow(
            planner,
            plans.values(cards, share, cost_weight, turns=turns),
            share,
            recorded.group_N_M[n],
            recorded.length_N_M[n],
            rounds,
        )
        for n, share in enumerate(shares)
    ]


def plan_curve(
    model: AnswerModel,
    test: OutcomeGrid,
    recorded: Recorded,
    *,
    turns: int = 3,
) -> Curve:
    """The plans at every cost weight of the dial, on recorded answers; each call made is paid."""
    plans, cards = Plans(model), range(len(test.models))
    shares = [plans.shares(prompt) for prompt in test.prompts]
    score, cost = np.zeros((len(DIAL), len(test))), np.zeros((len(DIAL), len(test)))
    for setting, weight in enumerate(DIAL):
        for n, course in enumerate(courses(plans, cards, shares, recorded, weight, turns)):
            score[setting, n] = test.score[n, course.taken]
            cost[setting, n] = test.cost[n, list(course.called)].sum()
    return Curve("plans", np.array(DIAL), score, cost)


def recorded_of(table: OutcomeGrid) -> Recorded:
    """What a table's recorded answers come down to.

    Raises:
        ConfigurationError: the table keeps no responses.
    """
    told = table.more.get("response")
    if told is None:
        raise ConfigurationError(
            "the outcome table has no column 'response'; plans of several calls are learned from "
            "recorded answers and judged on them"
        )
    return Recorded.of(told.tolist())


@dataclass(frozen=True)
class Split:
    """One half split of a table with recorded answers."""

    train: OutcomeGrid
    test: OutcomeGrid
    learned_from: Recorded
    judged_on: Recorded
    reference: Reference

    @classmethod
    def of(cls, table: OutcomeGrid, recorded: Recorded, seed: int) -> Split:
        train, test = random_split(table, seed=seed)
        row = {name: n for n, name in enumerate(table.prompt_ids)}
        at = [np.array([row[name] for name in half.prompt_ids]) for half in (train, test)]
        return cls(train, test, recorded.rows(at[0]), recorded.rows(at[1]), Reference.of(train))

    def judge(self, curve: Curve) -> SplitFigures:
        """Figures of a curve over the test half, as `benchmarks/quality.py` has them."""
        found = resample(curve, self.test, self.reference, draws=1)
        mix = static_mix_curve(self.train, self.test)
        mixed = resample(mix, self.test, self.reference, draws=1)
        return SplitFigures(
            float((found.aiq - mixed.aiq)[0]),
            float((found.aiq - found.zero_aiq)[0]),
            float(found.parity[0]),
        )


@dataclass(frozen=True)
class SplitFigures:
    over_mix: float
    """AIQ over that of the static mix: the fixed models on the train half's hull."""
    over_zero: float
    """AIQ over that of the zero router: the fixed models on the test half's own hull."""
    parity: float


def summary(name: str, rows: Sequence[SplitFigures]) -> str:
    """Means over splits with their standard deviation, and the median parity."""

    def spread(values: Floats) -> str:
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
        return f"{np.mean(values):+.4f} ± {deviation:.4f}"

    mix = np.array([row.over_mix for row in rows])
    zero = np.array([row.over_zero for row in rows])
    parity = float(np.median([row.parity for row in rows]))
    return (
        f"{name}: gain over the static mix {spread(mix)}, over the zero router {spread(zero)} "
        f"(± standard deviation over {len(rows)} splits), median parity {parity:.0%}"
    )


def judge_splits(
    folder: Path, how: LessonSettings, splits: int, *, turns: int
) -> Iterator[SplitFigures]:
    """Plans learned from one half of a folder's table and judged on the other, seed after seed.

    Raises:
        ConfigurationError: the table can't be used, or keeps no responses.
    """
    table, recorded = read_recorded(folder, how)
    for seed in range(splits):
        split = Split.of(table, recorded, seed)
        model = fit_answers(split.train, split.learned_from)
        yield split.judge(plan_curve(model, split.test, split.judged_on, turns=turns))


def read_recorded(folder: Path, how: LessonSettings | None = None) -> tuple[OutcomeGrid, Recorded]:
    """The outcome table of a folder, and what its answers come down to."""
    table = read_table(folder, how or LessonSettings())
    return table, recorded_of(table)
