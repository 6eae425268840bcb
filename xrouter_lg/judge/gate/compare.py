"""Baselines on two splits, always side by side: prompts like those seen, and kinds never seen.

A random split says how well a router knows its own traffic. A leave-families-out split says what
it does to traffic that changes: there every learned router measured so far lost to a static mix,
and a report that shows only the first split hides it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xrouter_lg.arrays import Ints
from xrouter_lg.figures.bootstrap import Figure, figure
from xrouter_lg.figures.curve import (
    Curve,
    fixed_curve,
    oracle_curve,
    predicted_curve,
    random_curve,
    static_mix_curve,
)
from xrouter_lg.figures.metrics import DRAWS, Reference, resample, weighted_gain
from xrouter_lg.judge.baselines.cascades import agreement_cascade, verify_cascade
from xrouter_lg.judge.baselines.learned import LEARNED, Estimator
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import family_folds, unit_hash

Builder = Callable[[OutcomeGrid, OutcomeGrid, Reference], Curve]
"""(train, test, reference) → the curve on test."""


@dataclass(frozen=True)
class Row:
    name: str
    gain: Figure
    """AIQ over the zero router, prompts like those seen."""
    parity: Figure
    """Share of the best fixed model's cost, prompts like those seen."""
    unseen_gain: Figure | None
    """AIQ over the zero router, each family judged by a fit that never saw it; None where that
    was not measured."""
    points: tuple[tuple[float, float], ...] = ()
    """Mean (USD, score) per setting, prompts like those seen."""


@dataclass(frozen=True)
class Comparison:
    seed: int
    train_prompts: int
    test_prompts: int
    zero_aiq: Figure
    best_fixed: str
    cheapest: str
    rows: tuple[Row, ...]


def estimated(name: str, estimator: Estimator) -> Builder:
    """The builder of an estimator's curve."""

    def build(train: OutcomeGrid, test: OutcomeGrid, reference: Reference) -> Curve:
        predictions = estimator(train, test.prompts, test.families)
        return predicted_curve(name, predictions, test, c_ref=reference.c_ref)

    return build


def fixed_builders(models: Sequence[str]) -> dict[str, Builder]:
    """Every fixed model as a curve of one point."""

    def one(at: int) -> Builder:
        def build(train: OutcomeGrid, test: OutcomeGrid, reference: Reference) -> Curve:
            every = fixed_curve(test)
            here = slice(at, at + 1)
            return Curve(models[at], np.zeros(1), every.score[here], every.cost[here])

        return build

    return {name: one(at) for at, name in enumerate(models)}


def reference_builders(dial: tuple[float, ...] | None = None) -> dict[str, Builder]:
    """Random, the deployable static mix and the oracle."""
    return {
        "random": lambda train, test, reference: random_curve(test),
        "static mix": lambda train, test, reference: static_mix_curve(train, test, dial=dial),
        "oracle": lambda train, test, reference: oracle_curve(test, c_ref=reference.c_ref),
    }


def cascade_builders(
    *, agreement: bool, dial: tuple[float, ...] | None = None
) -> dict[str, Builder]:
    """Cascades: with a perfect verifier (a bound), and by `agreement` where grids have the numbers
    of their answers (`more["answer"]`)."""

    def verified(train: OutcomeGrid, test: OutcomeGrid, reference: Reference) -> Curve:
        return verify_cascade(train, test, train.score >= 1.0, test.score >= 1.0, dial=dial)

    found: dict[str, Builder] = {"perfect verify cascade": verified}
    if agreement:

        def agreed(train: OutcomeGrid, test: OutcomeGrid, reference: Reference) -> Curve:
            answers = train.more["answer"], test.more["answer"]
            return agreement_cascade(train, test, *answers, dial=dial)

        found["agreement cascade"] = agreed
    return found


def all_builders(
    models: Sequence[str], *, agreement: bool = False, dial: tuple[float, ...] | None = None
) -> dict[str, Builder]:
    """Everything a router has to beat, and the bounds it can't: the rows of every report.

    With a `dial`, those that choose among fixed settings choose at its cost weights, so that
    curves of several folds can be pooled (`cross_validated`).
    """
    references = reference_builders(dial)
    bounds = {"oracle": references.pop("oracle")}
    return {
        **fixed_builders(models),
        **references,
        **{name: estimated(name, estimator) for name, estimator in LEARNED.items()},
        **cascade_builders(agreement=agreement, dial=dial),
        **bounds,
    }


def compare_halves(
    train: OutcomeGrid,
    test: OutcomeGrid,
    builders: Mapping[str, Builder],
    *,
    seed: int = 0,
    draws: int = DRAWS,
    progress: Callable[[str], None] = lambda _: None,
) -> Comparison:
    """Judge every builder on these halves, and on the families of both, each fitted without it."""
    reference, every = Reference.of(train), train.joined(test)
    rows = []
    for name, build in builders.items():
        progress(name)
        row = row_of(build(train, test, reference), test, reference, draws=draws, seed=seed)
        unseen = unseen_gain(every, build, draws=draws, seed=seed)
        rows.append(replace(row, name=name, unseen_gain=unseen))
    zero = resample(fixed_curve(test), test, reference, draws=draws, seed=seed)
    return Comparison(
        seed,
        len(train),
        len(test),
        figure(zero.zero_aiq),
        test.models[reference.best_fixed],
        test.models[reference.cheapest],
        tuple(rows),
    )


def row_of(
    curve: Curve, test: OutcomeGrid, reference: Reference, *, draws: int = DRAWS, seed: int = 0
) -> Row:
    """A curve's row; the column of unseen families is left open."""
    sample = resample(curve, test, reference, draws=draws, seed=seed)
    return Row(
        curve.name,
        figure(sample.aiq - sample.zero_aiq),
        figure(sample.parity),
        None,
        tuple((float(x), float(y)) for x, y in curve.points),
    )


def cross_validated(table: OutcomeGrid, build: Builder, *, seed: int = 0, folds: int = 5) -> Curve:
    """One curve over all prompts, each judged by a fit on the other folds.

    Its settings must be the same in every fold: cost weights, not a hull found anew.
    """
    fold = random_folds(table, seed=seed, folds=folds)
    parts = []
    for number in range(folds):
        train, test = table.rows(fold != number), table.rows(fold == number)
        parts.append((np.flatnonzero(fold == number), build(train, test, Reference.of(train))))
    first = parts[0][1]
    if any(not np.array_equal(part.cost_weight, first.cost_weight) for _, part in parts):
        raise ValueError(f"{first.name!r} has other settings in every fold: it can't be pooled")
    score, cost = (np.empty((len(first.cost_weight), len(table))) for _ in range(2))
    for at, part in parts:
        score[:, at], cost[:, at] = part.score, part.cost
    return Curve(first.name, first.cost_weight, score, cost)


def random_folds(table: OutcomeGrid, *, seed: int, folds: int) -> Ints:
    """[N] fold of each prompt, by the hash of its id."""
    units = np.array([unit_hash(name, seed) for name in table.prompt_ids])
    return np.minimum((units * folds).astype(np.int64), folds - 1)


def unseen_gain(
    table: OutcomeGrid, build: Builder, *, depth: int | None = None, draws: int, seed: int
) -> Figure | None:
    """The gain where each kind is judged by a fit that never saw it, folds weighted by their
    prompts, each resampled by itself; None with a single kind. `depth` as in `family_folds`."""
    if len({"|".join(name.split("|")[:depth]) for name in table.families}) < 2:
        return None
    parts = []
    for train, test, _ in family_folds(table, seed=seed, depth=depth):
        reference = Reference.of(train)
        parts.append((build(train, test, reference), test, reference))
    return figure(weighted_gain(parts, draws=draws, seed=seed))
