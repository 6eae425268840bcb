"""One pool under the judge: figures, baselines on both splits, the gate, and where it went wrong.

Everything here works on one complete matrix; `run` splits a table into such pools first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.bootstrap import Figure, bootstrap_means, figure
from xrouter_lg.figures.curve import Curve, predicted_curve, shuffled_curve
from xrouter_lg.figures.metrics import DRAWS, Reference, difference, resample
from xrouter_lg.judge.baselines.learned import knn
from xrouter_lg.judge.gate.compare import (
    Comparison,
    Row,
    all_builders,
    compare_halves,
    row_of,
)
from xrouter_lg.judge.gate.rules import MIN_SLICE, Contender, Guard, Rules, judge
from xrouter_lg.judge.gate.verdict import GateVerdict
from xrouter_lg.judge.score import Score, curve_of, score_choices
from xrouter_lg.outcomes.grid import OutcomeGrid

MIN_PROMPTS = 50
"""Prompts below which a part of a pool gets no figures."""
_EXAMPLES_PER_FAMILY = 2
_GRID = 60


@dataclass(frozen=True)
class BesideFixed:
    """What a setting costs and scores beside always calling the best fixed model."""

    cost_weight: float
    why: str
    usd: float
    """For all prompts of the pool, the router's own tokens included."""
    fixed_usd: float
    saved_share: Figure
    score: float
    score_difference: Figure
    """Mean score over the best fixed model's."""


@dataclass(frozen=True)
class FamilyRoutes:
    family: str
    prompts: int
    shares: dict[str, float]
    """Share of the family's prompts per model, at the judged cost weight; empty when several
    models were called."""
    score: float
    fixed_score: float
    usd: float
    """Mean per prompt."""
    fixed_usd: float


@dataclass(frozen=True)
class Regression:
    """A prompt that the policy did worse on than the best fixed model."""

    prompt_id: str
    family: str
    prompt: str
    model: str
    score: float
    usd: float
    expected: float | None
    """What the policy thought the model would score."""
    fixed_score: float
    fixed_usd: float
    loss: float
    """Utility lost against the best fixed model."""


@dataclass(frozen=True)
class Band:
    """The policy's hull with its interval over a range of mean costs."""

    usd: tuple[float, ...]
    score: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    zero: tuple[float, ...]
    """The zero router's height at the same costs."""


@dataclass(frozen=True)
class Assessment:
    models: tuple[str, ...]
    sources: tuple[str, ...]
    prompts: int
    parts: dict[str, Score]
    """`all`, and where both have enough prompts `seen families` and `unseen families`."""
    fixed: tuple[tuple[str, float, float], ...]
    """(model, mean USD, mean score) on these prompts."""
    band: Band
    comparison: Comparison | None
    """None without a training half to fit the baselines on."""
    policy_row: Row
    shuffle_row: Row | None
    over_knn: Figure | None
    """AIQ over the shrinking kNN's."""
    verdict: GateVerdict | None
    savings: tuple[BesideFixed, ...]
    families: tuple[FamilyRoutes, ...]
    regressions: tuple[Regression, ...]


@dataclass(frozen=True)
class Pooled:
    """What `assess` needs of one pool."""

    choices: pl.DataFrame
    """Of these prompts among others, with `probability`."""
    test: OutcomeGrid
    train: OutcomeGrid | None
    reference: Reference
    """Of the training half, or by the checkpoint's own statistics; its c_ref is the unit of the
    checkpoint's cost weight."""
    known_families: frozenset[str]
    """Families that the checkpoint has learned from; empty when that is not recorded."""
    unseen_gain: Figure | None = None
    """Of checkpoints trained without the families they are judged on."""
    production: pl.DataFrame | None = None
    """Choices of the checkpoint in production."""


@dataclass(frozen=True)
class AssessSettings:
    cost_weight: float
    baselines: bool = True
    looks: int = 1
    tolerance: float = 0.02
    examples: int = 8
    draws: int = DRAWS
    seed: int = 0


def assess(
    pool: Pooled, settings: AssessSettings, progress: Callable[[str], None] = lambda _: None
) -> Assessment:
    """Judge one pool."""
    test, reference = pool.test, pool.reference
    draws, seed = settings.draws, settings.seed
    curve = curve_of(pool.choices, test, "checkpoint")
    progress("figures")
    parts = _parts(pool, settings)
    row = row_of(curve, test, reference, draws=draws, seed=seed)
    seen_out = parts.get("unseen families")
    row = replace(
        row,
        unseen_gain=pool.unseen_gain or (None if seen_out is None else seen_out.metrics.gain),
    )
    shuffle = None
    if curve.choice is not None:
        dealt = shuffled_curve(curve, test)
        shuffle = row_of(replace(dealt, name="shuffle"), test, reference, draws=draws, seed=seed)
    comparison, verdict, over_knn = None, None, None
    if pool.train is not None:
        near = knn(pool.train, test.prompts)
        weights = tuple(map(float, curve.cost_weight))
        beside = predicted_curve("kNN", near, test, c_ref=reference.c_ref, dial=weights)
        over_knn = difference(curve, beside, test, reference, draws=draws, seed=seed)
        if settings.baselines:
            known = all("answer" in half.more for half in (pool.train, test))
            builders = all_builders(test.models, agreement=known)
            comparison = compare_halves(
                pool.train, test, builders, draws=draws, seed=seed, progress=progress
            )
        progress("gate")
        verdict = _verdict(pool, settings, curve, beside)
    return Assessment(
        models=test.models,
        sources=tuple(sorted({name.split("|")[0] for name in test.prompt_ids})),
        prompts=len(test),
        parts=parts,
        fixed=tuple(
            (name, float(test.cost[:, m].mean()), float(test.score[:, m].mean()))
            for m, name in enumerate(test.models)
        ),
        band=_band(curve, test, reference, draws=draws, seed=seed),
        comparison=comparison,
        policy_row=row,
        shuffle_row=shuffle,
        over_knn=over_knn,
        verdict=verdict,
        savings=_savings(curve, test, reference, parts["all"], settings),
        families=_families(curve, test, reference, settings.cost_weight),
        regressions=_regressions(pool, curve, settings),
    )


def _parts(pool: Pooled, settings: AssessSettings) -> dict[str, Score]:
    test = pool.test

    def of(table: OutcomeGrid) -> Score:
        return score_choices(
            pool.choices,
            table,
            train=pool.train,
            reference=pool.reference,
            draws=settings.draws,
            seed=settings.seed,
        )

    found = {"all": of(test)}
    known = np.array([name in pool.known_families for name in test.families])
    if pool.known_families and min(known.sum(), (~known).sum()) >= MIN_PROMPTS:
        found["seen families"] = of(test.rows(known))
    if pool.known_families and (~known).sum() >= MIN_PROMPTS:
        found["unseen families"] = of(test.rows(~known))
    return found


def _verdict(pool: Pooled, settings: AssessSettings, curve: Curve, knn: Curve) -> GateVerdict:
    weight, test = settings.cost_weight, pool.test
    families = np.array(test.families)
    guards = [
        Guard(str(name), families == name, tolerance=settings.tolerance)
        for name, prompts in zip(*np.unique(families, return_counts=True), strict=True)
        if prompts >= MIN_SLICE
    ]
    production = None
    if pool.production is not None:
        production = Contender.of(curve_of(pool.production, test, "production"), weight)
    rules = Rules(
        weight,
        looks=settings.looks,
        draws=max(settings.draws, 2000),
        seed=settings.seed,
        guards=guards,
    )
    return judge(
        curve, test, pool.reference, rules, knn=Contender.of(knn, weight), production=production
    )


def _band(curve: Curve, test: OutcomeGrid, reference: Reference, *, draws: int, seed: int) -> Band:
    sample = resample(curve, test, reference, draws=draws, seed=seed)
    costs = np.concatenate([curve.points[:, 0], test.cost.mean(0)])
    low = max(float(costs.min()), 1e-9)
    high = max(
        float(test.cost[:, reference.best_fixed].mean()) * 1.3, float(curve.points[:, 0].max())
    )
    grid = np.geomspace(low, max(high, low * 1.01), _GRID)
    heights = np.stack([sample.policy.height(np.full(1 + draws, usd)) for usd in grid], axis=1)
    zero = np.array([sample.zero.height(np.full(1 + draws, usd))[0] for usd in grid])
    bounds = np.quantile(heights[1:], [0.025, 0.975], axis=0)

    def plain(values: Floats) -> tuple[float, ...]:
        return tuple(float(v) for v in values)

    return Band(plain(grid), plain(heights[0]), plain(bounds[0]), plain(bounds[1]), plain(zero))


def _savings(
    curve: Curve, test: OutcomeGrid, reference: Reference, score: Score, settings: AssessSettings
) -> tuple[BesideFixed, ...]:
    wanted = {settings.cost_weight: "the judged cost weight"}
    if (parity := score.metrics.parity_cost_weight) is not None:
        wanted.setdefault(parity, "the highest with the best fixed model's quality")
    wanted.setdefault(float(curve.cost_weight[0]), "quality alone")
    fixed_score = test.score[:, reference.best_fixed]
    fixed_cost = test.cost[:, reference.best_fixed]
    rows = []
    for weight, why in wanted.items():
        at = curve.nearest(weight)
        stacked = np.stack([curve.cost[at], fixed_cost, curve.score[at] - fixed_score])
        means = bootstrap_means(stacked, draws=settings.draws, seed=settings.seed)
        rows.append(
            BesideFixed(
                cost_weight=float(curve.cost_weight[at]),
                why=why,
                usd=float(curve.cost[at].sum()),
                fixed_usd=float(fixed_cost.sum()),
                saved_share=figure(1 - means[:, 0] / means[:, 1]),
                score=float(curve.score[at].mean()),
                score_difference=figure(means[:, 2]),
            )
        )
    return tuple(rows)


def _families(
    curve: Curve, test: OutcomeGrid, reference: Reference, cost_weight: float
) -> tuple[FamilyRoutes, ...]:
    at, best = curve.nearest(cost_weight), reference.best_fixed
    found = []
    for name in sorted(set(test.families)):
        rows = np.flatnonzero([family == name for family in test.families])
        shares = {}
        if curve.choice is not None:
            counts = np.bincount(curve.choice[at, rows], minlength=len(test.models)) / len(rows)
            shares = {test.models[m]: float(counts[m]) for m in np.flatnonzero(counts)}
        found.append(
            FamilyRoutes(
                family=name,
                prompts=len(rows),
                shares=dict(sorted(shares.items(), key=lambda item: -item[1])),
                score=float(curve.score[at, rows].mean()),
                fixed_score=float(test.score[rows, best].mean()),
                usd=float(curve.cost[at, rows].mean()),
                fixed_usd=float(test.cost[rows, best].mean()),
            )
        )
    return tuple(sorted(found, key=lambda row: -row.prompts))


def _regressions(pool: Pooled, curve: Curve, settings: AssessSettings) -> tuple[Regression, ...]:
    test, best = pool.test, pool.reference.best_fixed
    at = curve.nearest(settings.cost_weight)
    unit = settings.cost_weight / pool.reference.c_ref
    lost = test.score[:, best] - unit * test.cost[:, best]
    lost = lost - (curve.score[at] - unit * curve.cost[at])
    worse = curve.score[at] < test.score[:, best]
    chosen = pool.choices.filter(pl.col("cost_weight") == curve.cost_weight[at])
    key = pl.concat_str(["source", "task", "prompt_id"], separator="|")
    has = "probability" in chosen.columns
    of = {
        row[0]: row[1:]
        for row in chosen.select(
            key, "model", pl.col("probability") if has else pl.lit(None, pl.Float64)
        ).iter_rows()
    }
    found: list[Regression] = []
    counts: dict[str, int] = {}
    for row in np.argsort(-lost, kind="stable"):
        family = test.families[row]
        if len(found) == settings.examples or not worse[row]:
            break
        if counts.get(family, 0) == _EXAMPLES_PER_FAMILY:
            continue
        counts[family] = counts.get(family, 0) + 1
        model, expected = of[test.prompt_ids[row]]
        found.append(
            Regression(
                prompt_id=test.prompt_ids[row],
                family=family,
                prompt=test.prompts[row],
                model=model,
                score=float(curve.score[at, row]),
                usd=float(curve.cost[at, row]),
                expected=expected,
                fixed_score=float(test.score[row, best]),
                fixed_usd=float(test.cost[row, best]),
                loss=float(lost[row]),
            )
        )
    return tuple(found)
