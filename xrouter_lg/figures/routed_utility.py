"""How good a policy's decisions are on validation prompts, in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from xrouter_lg.figures.curve import choose

Floats = npt.NDArray[np.float64]

WEIGHTS: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Cost weights that a validation utility is averaged over: one checkpoint serves them all."""


DENSE_WEIGHTS: tuple[float, ...] = tuple(float(x) for x in np.geomspace(0.01, 3.0, 12))
"""Where two ways of expecting scores are weighed against each other."""


class Table(Protocol):
    """Outcomes of N prompts × M cards."""

    @property
    def score(self) -> Floats: ...

    @property
    def cost(self) -> Floats: ...

    def __len__(self) -> int: ...


def utility(z_N_M: Floats, table: Table, expected_usd_M: Floats, c_ref_usd: float) -> float:
    """Mean of score - λ · cost / c_ref over prompts and :data:`WEIGHTS`, in score points.

    A card costs ``expected_usd_M`` when it is chosen, and what the table says when it is paid.
    """
    quality = 1.0 / (1.0 + np.exp(-z_N_M))
    expected = np.tile(expected_usd_M, (len(table), 1))
    found = routed_utility(quality, expected, table.score, table.cost, c_ref_usd, WEIGHTS)
    return float(found.mean())


def routed_utility(
    quality_N_M: Floats,
    expected_usd_N_M: Floats,
    score_N_M: Floats,
    cost_usd_N_M: Floats,
    c_ref_usd: float,
    weights: Sequence[float],
) -> Floats:
    """[N] score - λ · cost / c_ref of what is chosen by expectations, the mean over ``weights``.
    Only cards with a known outcome on a prompt (not NaN) are chosen there."""
    rows, candidates = np.arange(len(score_N_M)), np.isfinite(score_N_M)
    total = np.zeros(len(score_N_M))
    for weight in weights:
        taken = choose(quality_N_M, expected_usd_N_M, weight, c_ref_usd, candidates)
        total += score_N_M[rows, taken] - weight * cost_usd_N_M[rows, taken] / c_ref_usd
    return total / len(weights)
