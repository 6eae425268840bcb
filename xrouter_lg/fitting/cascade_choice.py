"""Plans of several calls, learned from recorded answers
(:mod:`xrouter_lg.policies.cascade.policy`).

    python -m xrouter_lg.fitting.cascade_choice --outcomes FOLDER --output plans.safetensors
    python -m xrouter_lg.fitting.cascade_choice --outcomes FOLDER --splits 10   # half splits

The folder holds an outcome table with responses. What is learned is not a table of plans but a
model of answers (:mod:`xrouter_lg.fitting.cascade`), out of which the policy plans when it is
asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.checkpoints.cascade_model import AnswerModel
from xrouter_lg.figures.curve import DIAL, Curve, static_mix_curve
from xrouter_lg.figures.metrics import Reference, resample
from xrouter_lg.fitting.cascade import Recorded, fit_answers
from xrouter_lg.outcomes import OutcomeTable
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


def plan_curve(
    model: AnswerModel,
    test: OutcomeGrid,
    recorded: Recorded,
    *,
    dial: Sequence[float] = DIAL,
    turns: int = 3,
) -> Curve:
    """The plans at every cost weight of the dial, on recorded answers; each call made is paid."""
    plans, cards, rounds = Plans(model), range(len(test.models)), rounds_of(turns)
    planner = plans.planner(cards, turns)
    shares = [plans.shares(prompt) for prompt in test.prompts]
    score, cost = np.zeros((len(dial), len(test))), np.zeros((len(dial), len(test)))
    for setting, weight in enumerate(dial):
        for n, share in enumerate(shares):
            values = plans.values(cards, share, weight, turns=turns)
            course = follow(
                planner, values, share, recorded.group_N_M[n], recorded.length_N_M[n], rounds
            )
            score[setting, n] = test.score[n, course.taken]
            cost[setting, n] = test.cost[n, list(course.called)].sum()
    return Curve("plans", np.array(dial), score, cost)


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

    def judge(self, curve: Curve) -> Judged:
        """Figures of a curve over the test half, as `benchmarks/quality.py` has them."""
        found = resample(curve, self.test, self.reference, draws=1)
        mix = static_mix_curve(self.train, self.test)
        mixed = resample(mix, self.test, self.reference, draws=1)
        return Judged(
            float((found.aiq - mixed.aiq)[0]),
            float((found.aiq - found.zero_aiq)[0]),
            float(found.parity[0]),
        )


@dataclass(frozen=True)
class Judged:
    over_mix: float
    """AIQ over that of the static mix: the fixed models on the train half's hull."""
    over_zero: float
    """AIQ over that of the zero router: the fixed models on the test half's own hull."""
    parity: float


def summary(name: str, rows: Sequence[Judged]) -> str:
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


def read_recorded(folder: Path) -> tuple[OutcomeGrid, Recorded]:
    """The outcome table of a folder, and what its answers come down to."""
    table = OutcomeTable.load(folder).complete_grid(more=("response",))
    if "response" not in table.more:
        raise ValueError(f"{folder}: plans are learned from answers, and no column is 'response'")
    return table, Recorded.of(table.more["response"].tolist())


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 when the table can't be used."""
    parser = argparse.ArgumentParser(description="Learn plans of calls from recorded answers.")
    parser.add_argument("--outcomes", type=Path, required=True, help="folder of an outcome table")
    parser.add_argument("--output", type=Path, help="the plan file to write")
    parser.add_argument("--splits", type=int, default=0, help="judge on this many half splits")
    parser.add_argument("--turns", type=int, default=3, help="decisions at most (max_turns)")
    options = parser.parse_args(argv)
    try:
        table, recorded = read_recorded(options.outcomes)
        rows = []
        for seed in range(options.splits):
            split = Split.of(table, recorded, seed)
            model = fit_answers(split.train, split.learned_from)
            curve = plan_curve(model, split.test, split.judged_on, turns=options.turns)
            rows.append(split.judge(curve))
            print(
                f"split {seed}: gain over the static mix {rows[-1].over_mix:+.4f}, over the zero "
                f"router {rows[-1].over_zero:+.4f}, parity {rows[-1].parity:.0%}",
                flush=True,
            )
        if rows:
            print(summary("plans", rows))
        if options.output is not None:
            model = fit_answers(table, recorded)
            model.save(options.output)
            print(f"{options.output}: {len(model.cards)} cards, {len(model.head.families)} kinds")
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
