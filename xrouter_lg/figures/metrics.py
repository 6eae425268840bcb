"""One policy's figures against the fixed models, each with a paired bootstrap 95 % interval.

Money includes the router's own tokens. `lo` and `hi` are the test costs of the cheapest and the
best fixed model, both named on the train half (`Reference`); a resample recomputes them, and the
fixed models' hull, on its own prompts.

- **AIQ**: mean height of the policy's hull over [lo, hi] (`hull`).
- **gain**: AIQ − AIQ of the zero router, the hull of the fixed models on the test half
  (RouterBench, Hu et al. 2024). The zero router knows the test half, the policy does not: the
  gain is what is left after that.
- **parity**: smallest cost on the policy's hull at which its score is at least the best fixed
  model's, as a share of hi.
- **CPT(x)**: call-performance threshold (RouteLLM, Ong et al. 2024, arXiv 2406.18665): there the
  least share of calls to the strong model that recovers x % of the gap between the weak and the
  strong one. Here weak = cheapest, strong = best fixed, and the share of calls becomes
  (c − lo) / (hi − lo), the same number for a pool of two models at constant prices.
- **regret**: AIQ of the oracle − AIQ. The oracle picks by outcomes it should not know and so
  collects luck: `oracle_luck` says how much of it a second run of the same models would lose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.bootstrap import Figure, bootstrap_means, figure
from xrouter_lg.figures.curve import Curve, choose, oracle_curve
from xrouter_lg.figures.hull import Hulls, hulls
from xrouter_lg.outcomes.grid import OutcomeGrid

DRAWS = 1000


@dataclass(frozen=True)
class Reference:
    """Names from the train half that the test half's figures refer to."""

    best_fixed: int
    cheapest: int
    c_ref: float
    """USD; the unit of the cost weight."""

    @classmethod
    def of(cls, train: OutcomeGrid) -> Reference:
        return cls(train.best_fixed(), train.cheapest(), train.reference_cost())


@dataclass(frozen=True)
class Metrics:
    name: str
    aiq: Figure
    gain: Figure
    parity_share: Figure
    cpt50: Figure
    cpt80: Figure
    regret: Figure
    oracle_luck: tuple[float, float]
    """Part of the regret that is luck, at 3 % and at 19 % disagreement between two runs."""
    largest_share: tuple[float, ...]
    """Per setting, the share of prompts sent to the most used model; empty for several calls."""
    parity_cost_weight: float | None
    """The highest cost weight whose own point reaches parity."""
    largest_share_at_parity: float | None
    router_share: float
    """Router USD / all USD, at the setting of parity or else over all settings."""
    points: tuple[tuple[float, float, float], ...]
    """(cost weight, mean USD, mean score) per setting."""


@dataclass(frozen=True)
class Resampled:
    """A policy and the fixed models on the sample (row 0) and its resamples, [1 + draws, ...]."""

    policy: Hulls
    zero: Hulls
    lo: Floats
    hi: Floats
    weak: Floats
    """Score of the cheapest fixed model."""
    strong: Floats
    """Score of the best fixed model."""

    @property
    def aiq(self) -> Floats:
        return self.policy.aiq(self.lo, self.hi)

    @property
    def zero_aiq(self) -> Floats:
        return self.zero.aiq(self.lo, self.hi)

    @property
    def parity(self) -> Floats:
        """Shares of hi; inf where the policy never reaches the best fixed model."""
        cost = self.policy.cost_of(self.strong)
        return np.where(self.hi > 0, cost / np.where(self.hi > 0, self.hi, 1.0), np.inf)

    def cpt(self, share: float) -> Floats:
        """Shares of the cost gap; 0 when the policy needs no more than the cheapest model."""
        target = self.weak + share * (self.strong - self.weak)
        width = self.hi - self.lo
        excess = np.maximum(self.policy.cost_of(target) - self.lo, 0.0)
        return np.where(width > 0, excess / np.where(width > 0, width, 1.0), np.inf)


def resample(
    curve: Curve, test: OutcomeGrid, reference: Reference, *, draws: int = DRAWS, seed: int = 0
) -> Resampled:
    """Every curve judged with one seed meets the same resampled prompts."""
    if curve.score.shape[1] != len(test):
        raise ValueError(f"{curve.name!r} has {curve.score.shape[1]} prompts, not {len(test)}")
    settings, models = len(curve.cost_weight), len(test.models)
    stacked = np.concatenate([curve.cost, curve.score, test.cost.T, test.score.T])
    means = bootstrap_means(stacked, draws=draws, seed=seed)
    x, y, fixed_x, fixed_y = np.split(means, np.cumsum([settings, settings, models]), axis=1)
    return Resampled(
        hulls(x, y),
        hulls(fixed_x, fixed_y),
        fixed_x[:, reference.cheapest],
        fixed_x[:, reference.best_fixed],
        fixed_y[:, reference.cheapest],
        fixed_y[:, reference.best_fixed],
    )


def evaluate(
    curve: Curve, test: OutcomeGrid, reference: Reference, *, draws: int = DRAWS, seed: int = 0
) -> Metrics:
    """All figures of one curve."""
    sample = resample(curve, test, reference, draws=draws, seed=seed)
    oracle = resample(
        oracle_curve(test, c_ref=reference.c_ref), test, reference, draws=draws, seed=seed
    )
    points = curve.points
    strong = float(test.score[:, reference.best_fixed].mean())
    reaching = np.flatnonzero(points[:, 1] >= strong - 1e-12)
    at = int(reaching[-1]) if len(reaching) else None
    shares = largest_shares(curve, len(test.models))
    spent = curve.cost if at is None else curve.cost[at]
    own = np.zeros(1) if curve.router_cost is None else curve.router_cost
    own = own if at is None or curve.router_cost is None else own[at]
    return Metrics(
        name=curve.name,
        aiq=figure(sample.aiq),
        gain=figure(sample.aiq - sample.zero_aiq),
        parity_share=figure(sample.parity),
        cpt50=figure(sample.cpt(0.5)),
        cpt80=figure(sample.cpt(0.8)),
        regret=figure(oracle.aiq - sample.aiq),
        oracle_luck=(
            oracle_luck(test, reference, disagreement=0.03),
            oracle_luck(test, reference, disagreement=0.19),
        ),
        largest_share=shares,
        parity_cost_weight=None if at is None else float(curve.cost_weight[at]),
        largest_share_at_parity=None if at is None or not shares else shares[at],
        router_share=float(own.sum() / spent.sum()) if spent.sum() > 0 else 0.0,
        points=tuple(
            (float(w), float(x), float(y))
            for w, (x, y) in zip(curve.cost_weight, points, strict=True)
        ),
    )


def difference(
    curve: Curve,
    other: Curve,
    test: OutcomeGrid,
    reference: Reference,
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Figure:
    """AIQ of `curve` − AIQ of `other` on the same resamples."""
    a = resample(curve, test, reference, draws=draws, seed=seed)
    b = resample(other, test, reference, draws=draws, seed=seed)
    return figure(a.aiq - b.aiq)


def largest_shares(curve: Curve, models: int) -> tuple[float, ...]:
    """Per setting, the share of the most used model; empty when a setting takes several."""
    if curve.choice is None:
        return ()
    counts = [np.bincount(row, minlength=models).max() for row in curve.choice]
    return tuple(float(c / curve.choice.shape[1]) for c in counts)


def oracle_luck(test: OutcomeGrid, reference: Reference, *, disagreement: float) -> float:
    """AIQ the oracle would lose if the models it picked ran again.

    `disagreement` is the share of prompts on which two runs of one model differ (0.03 to 0.19
    measured). In a stationary model as many prompts turn from right to wrong as back,
    so with mean score p a right answer is lost with probability d / (2p) and a wrong one mended
    with d / (2(1 − p)). Flips are taken as independent of the prompt; they cluster on hard
    prompts, where the oracle's picks are, so the true loss is rather larger.
    """
    mean = test.score.mean(0)
    lost = np.minimum(1.0, disagreement / (2 * np.maximum(mean, 1e-9)))
    mended = np.minimum(1.0, disagreement / (2 * np.maximum(1 - mean, 1e-9)))
    again = test.score * (1 - lost) + (1 - test.score) * mended
    dial: Sequence[float] = oracle_curve(test, c_ref=reference.c_ref).cost_weight.tolist()
    rows = np.arange(len(test))
    first, second, cost = [], [], []
    for weight in dial:
        picked = choose(test.score, test.cost, weight, reference.c_ref)
        first.append(test.score[rows, picked].mean())
        second.append(again[rows, picked].mean())
        cost.append(test.cost[rows, picked].mean())
    x = np.array([cost, cost])
    both = hulls(x, np.array([first, second]))
    lo = np.full(2, test.cost[:, reference.cheapest].mean())
    hi = np.full(2, test.cost[:, reference.best_fixed].mean())
    seen, rerun = both.aiq(lo, hi)
    return float(seen - rerun)


def weighted_gain(
    parts: Sequence[tuple[Curve, OutcomeGrid, Reference]], *, draws: int = DRAWS, seed: int = 0
) -> Floats:
    """[1 + draws] gains over the zero router of several streams, weighted by their prompts; each
    is resampled by itself."""
    prompts = sum(len(test) for _, test, _ in parts)
    total = np.zeros(1 + draws)
    for number, (curve, test, reference) in enumerate(parts):
        sample = resample(curve, test, reference, draws=draws, seed=seed + 1000 * (number + 1))
        total += len(test) / prompts * (sample.aiq - sample.zero_aiq)
    return total
