"""Baselines on two splits, always side by side: prompts like those seen, and kinds never seen.

A random split says how well a router knows its own traffic. A leave-families-out split says what
it does to traffic that changes: there every learned router measured so far lost to a static mix
(DESIGN §9), and a report that shows only the first split hides it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from training.judge.baselines import Estimator
from training.judge.bootstrap import Figure, figure
from training.judge.curve import (
    Curve,
    fixed_curve,
    oracle_curve,
    predicted_curve,
    random_curve,
    static_mix_curve,
)
from training.judge.metrics import DRAWS, Reference, resample
from training.judge.table import Floats, Paired, family_folds, random_split

Builder = Callable[[Paired, Paired, Reference], Curve]
"""(train, test, reference) → the curve on test."""


@dataclass(frozen=True)
class Row:
    name: str
    gain: Figure
    """AIQ over the zero router, random split."""
    parity: Figure
    """Share of the best fixed model's cost, random split."""
    unseen_gain: Figure
    """AIQ over the zero router, each family judged by a fit that never saw it."""


@dataclass(frozen=True)
class Comparison:
    seed: int
    train_prompts: int
    test_prompts: int
    zero_aiq: Figure
    best_fixed: str
    rows: tuple[Row, ...]


def estimated(estimator: Estimator, *, router_cost: float = 0.0) -> Builder:
    """The builder of an estimator's curve; `router_cost` in USD per request."""

    def build(train: Paired, test: Paired, reference: Reference) -> Curve:
        predictions = estimator.fit(train).predict(test.prompts, test.families)
        return predicted_curve(
            estimator.name, predictions, test, c_ref=reference.c_ref, router_cost=router_cost
        )

    return build


def fixed_builders(models: Sequence[str]) -> dict[str, Builder]:
    """Every fixed model as a curve of one point."""

    def one(at: int) -> Builder:
        def build(train: Paired, test: Paired, reference: Reference) -> Curve:
            every = fixed_curve(test)
            here = slice(at, at + 1)
            return Curve(models[at], np.zeros(1), every.score[here], every.cost[here])

        return build

    return {name: one(at) for at, name in enumerate(models)}


def reference_builders() -> dict[str, Builder]:
    """Random, the deployable static mix and the oracle."""
    return {
        "random": lambda train, test, reference: random_curve(test),
        "static mix": lambda train, test, reference: static_mix_curve(train, test),
        "oracle": lambda train, test, reference: oracle_curve(test, c_ref=reference.c_ref),
    }


def compare(
    table: Paired,
    builders: dict[str, Builder],
    *,
    seed: int = 0,
    folds: int = 3,
    depth: int | None = None,
    draws: int = DRAWS,
) -> Comparison:
    """Judge every builder on both splits of one table; `depth` as in `family_folds`."""
    train, test = random_split(table, seed=seed)
    reference = Reference.of(train)
    every_fold = [(a, b) for a, b, _ in family_folds(table, seed=seed, folds=folds, depth=depth)]
    rows = []
    for name, build in builders.items():
        sample = resample(build(train, test, reference), test, reference, draws=draws, seed=seed)
        rows.append(
            Row(
                name,
                figure(sample.aiq - sample.zero_aiq),
                figure(sample.parity),
                figure(_unseen(build, every_fold, draws=draws, seed=seed)),
            )
        )
    zero = resample(fixed_curve(test), test, reference, draws=draws, seed=seed)
    return Comparison(
        seed,
        len(train),
        len(test),
        figure(zero.zero_aiq),
        table.models[reference.best_fixed],
        tuple(rows),
    )


def _unseen(
    build: Builder, folds: Sequence[tuple[Paired, Paired]], *, draws: int, seed: int
) -> Floats:
    """[1 + draws] gains, folds weighted by their prompts; each fold is resampled by itself."""
    prompts = sum(len(test) for _, test in folds)
    total = np.zeros(1 + draws)
    for number, (train, test) in enumerate(folds):
        reference = Reference.of(train)
        curve = build(train, test, reference)
        sample = resample(curve, test, reference, draws=draws, seed=seed + 1000 * (number + 1))
        total += len(test) / prompts * (sample.aiq - sample.zero_aiq)
    return total
