"""OutcomeGrid bootstrap over prompts: draw the prompts once, recompute everything on each draw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Floats

_CHUNK = 64
"""Draws held in memory at once; fixed, so that a seed means the same draws everywhere."""


@dataclass(frozen=True)
class Figure:
    """A figure on the sample with its 95 % interval; None where it is undefined or unbounded."""

    value: float | None
    low: float | None
    high: float | None

    def above(self, threshold: float = 0.0) -> bool:
        """The whole interval lies above the threshold."""
        return self.low is not None and self.low > threshold

    def __str__(self) -> str:
        return f"{signed(self.value)} [{signed(self.low)}, {signed(self.high)}]"


def signed(value: float | None) -> str:
    """A difference as people read it; what is unknown is a dash."""
    return "–" if value is None else f"{value:+.4f}"


def bootstrap_means(values: Floats, *, draws: int, seed: int) -> Floats:
    """[1 + draws, K] means of the columns of [K, N] values over N prompts.

    Row 0 is the sample itself, the others are resamples with replacement. The same seed and N
    give the same prompts whatever the values, so two calls are paired.
    """
    n = values.shape[1]
    rng = np.random.default_rng(seed)
    means = [values.mean(1)[None, :]]
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        # Draw the full chunk even at the end: fewer draws are then a prefix of more draws.
        picks = rng.integers(0, n, (_CHUNK, n))[:size] + n * np.arange(size)[:, None]
        weights = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n)
        means.append(weights @ values.T / n)
    return np.concatenate(means)


def figure(samples: Floats, *, level: float = 0.95) -> Figure:
    """The figure of [1 + draws] samples (row 0 the value), with the percentile interval.

    Infinite samples stand for "never reached" and sort above everything.
    """
    tail = (1 - level) / 2
    low, high = np.quantile(samples[1:], [tail, 1 - tail], method="nearest")
    return Figure(_finite(samples[0]), _finite(low), _finite(high))


def _finite(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None
