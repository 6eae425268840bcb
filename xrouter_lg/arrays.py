"""The arrays that figures and fits are computed on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


def most_alike(likeness: Floats, k: int) -> Ints:
    """[N, k] columns with the largest likeness (0 to 1) in each row of [N, M], ascending by column.

    Likenesses that differ by less than 1e-9 are equal, and of equal ones the first column is taken:
    which of two is larger by a rounding error, or comes first out of a partition, depends on the
    processor.
    """
    n = likeness.shape[1]
    rank = np.rint(likeness * 1e9).astype(np.int64) * n - np.arange(n)
    nearest: Ints = np.sort(np.argpartition(-rank, k - 1, axis=1)[:, :k], axis=1)
    return nearest


def sums(at: Ints, values: Floats, size: int) -> Floats:
    """[size] sums of the values that fall on each place."""
    return np.asarray(np.bincount(at, values, size), dtype=np.float64)
