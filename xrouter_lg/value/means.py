"""Means per group, shrunk towards the mean of all: what the simpler ways of expecting go by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xrouter_lg.arrays import Floats

STRENGTH = 3.0
"""Prompts' worth of the overall mean that a mean is mixed with."""


def group_means(values_N_M: Floats, groups: Sequence[str], *, strength: float = STRENGTH) -> Floats:
    """[G, M] mean per group in the order of the sorted names, shrunk towards the overall mean: a
    group of n counts n / (n + strength). NaN is no outcome: it counts neither here nor there."""
    names = sorted(set(groups))
    member = np.array(groups)[None, :] == np.array(names)[:, None]
    known = np.isfinite(values_N_M)
    count = member @ known.astype(float)
    overall = np.nanmean(values_N_M, axis=0)
    own = (member @ np.where(known, values_N_M, 0.0)) / np.maximum(count, 1.0)
    shrunk: Floats = overall + count / (count + strength) * (own - overall)
    return shrunk


def over_mean(cost_G_M: Floats, mean_M: Floats) -> Floats:
    """[G, M] costs over each card's mean; 1 for a card that is free, or whose cost is unknown."""
    known = np.isfinite(mean_M) & (mean_M > 0)
    ratio = cost_G_M / np.where(known, mean_M, 1.0)
    found: Floats = np.where(known & np.isfinite(ratio), ratio, 1.0)
    return found
