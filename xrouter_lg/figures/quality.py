"""Are a policy's success probabilities worth their name?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Floats


@dataclass(frozen=True)
class Calibration:
    ece: float
    """Expected calibration error: mean |predicted − observed| over bins, weighted by size."""
    brier: float
    """Mean squared error of the probabilities; a constant at the mean score gets its variance."""
    brier_of_mean: float
    """Brier score of that constant: a model above it knows less than nothing."""
    bins: tuple[tuple[float, float, int], ...]
    """(mean predicted, mean observed, how many) per bin: the reliability diagram."""


def calibration(predicted: Floats, observed: Floats, *, bins: int = 10) -> Calibration:
    """Calibration of probabilities against scores in [0, 1], any shape, over equal-width bins.

    ECE after Guo et al. 2017 (arXiv 1706.04599, eq. 3). Fractional scores count as the mean of
    that many successes.
    """
    p, s = np.ravel(predicted).astype(float), np.ravel(observed).astype(float)
    if p.shape != s.shape or not len(p):
        raise ValueError(f"{len(p)} probabilities for {len(s)} scores")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("success probabilities must lie in [0, 1]")
    bin_of = np.minimum((p * bins).astype(int), bins - 1)
    count = np.bincount(bin_of, minlength=bins)
    used = count > 0
    mean_p = np.bincount(bin_of, p, minlength=bins)[used] / count[used]
    mean_s = np.bincount(bin_of, s, minlength=bins)[used] / count[used]
    return Calibration(
        ece=float((count[used] / len(p) * np.abs(mean_p - mean_s)).sum()),
        brier=float(((p - s) ** 2).mean()),
        brier_of_mean=float(s.var()),
        bins=tuple(
            (float(a), float(b), int(c))
            for a, b, c in zip(mean_p, mean_s, count[used], strict=True)
        ),
    )
