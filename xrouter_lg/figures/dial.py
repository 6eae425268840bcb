"""Is the cost weight a dial: does turning it up always save money, and never buy quality?"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.curve import Curve


@dataclass(frozen=True)
class Rise:
    """Something that went up although the cost weight did."""

    what: str
    """`cost` or `quality`."""
    from_weight: float
    to_weight: float
    by: float
    """USD or score units, the mean over prompts."""


@dataclass(frozen=True)
class Dial:
    settings: int
    monotone: bool
    """No rise of cost or quality, between any two settings, that noise can't explain."""
    moves: bool
    """The first and the last setting cost different amounts: an inert dial is monotone too."""
    rises: tuple[Rise, ...]
    """The rises that noise can't explain, largest first per kind."""
    largest_cost_rise: float
    """USD, noise or not, between any two settings; 0 when the means never rise."""
    largest_quality_rise: float


def check_dial(curve: Curve, *, alpha: float = 0.05) -> Dial:
    """Compare every pair of settings on the same prompts.

    A rise counts when its paired z value is beyond a one-sided test at `alpha`, divided by the
    number of comparisons (Bonferroni): a monotone dial is called broken at most `alpha` of the
    time, and a slow drift over many small steps is still seen, because far pairs are compared.
    """
    settings = len(curve.cost_weight)
    pairs = settings * (settings - 1)
    z = NormalDist().inv_cdf(1 - alpha / max(pairs, 1))
    rises: list[Rise] = []
    largest = {}
    for what, values in (("cost", curve.cost), ("quality", curve.score)):
        rise, error = _rises(values)
        scale = max(float(np.abs(values).mean()), 1e-300)
        largest[what] = float(max(rise.max(), 0.0)) if rise.size else 0.0
        real = np.argwhere((rise > z * error) & (rise > 1e-9 * scale))
        found = [
            Rise(what, float(curve.cost_weight[i]), float(curve.cost_weight[j]), float(rise[i, j]))
            for i, j in real
        ]
        rises += sorted(found, key=lambda r: -r.by)
    spend = curve.cost.mean(1)
    return Dial(
        settings=settings,
        monotone=not rises,
        moves=bool(spend[0] > spend[-1]),
        rises=tuple(rises),
        largest_cost_rise=largest["cost"],
        largest_quality_rise=largest["quality"],
    )


def _rises(values: Floats) -> tuple[Floats, Floats]:
    """[L, L] mean rises from a lower to a higher weight and their standard errors."""
    settings, n = values.shape
    mean = values.mean(1)
    rise = mean[None, :] - mean[:, None]
    error = np.zeros_like(rise)
    for i in range(settings):
        error[i] = (values - values[i]).std(1, ddof=1 if n > 1 else 0) / np.sqrt(n)
    later = np.triu(np.ones_like(rise, dtype=bool), 1)
    return np.where(later, rise, 0.0), error
