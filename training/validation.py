"""How good a policy's decisions are on validation prompts, in one figure."""

from __future__ import annotations

import numpy as np

from training.judge.curve import choose
from training.pools import Table
from training.sources import Floats

WEIGHTS: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Cost weights that a validation utility is averaged over: one checkpoint serves them all."""


def utility(z_N_M: Floats, table: Table, expected_usd_M: Floats, c_ref_usd: float) -> float:
    """Mean of score - λ · cost / c_ref over prompts and :data:`WEIGHTS`, in score points.

    Only cards with a known outcome on a prompt are chosen there. A card costs ``expected_usd_M``
    when it is chosen, and what the table says when it is paid.
    """
    quality = 1.0 / (1.0 + np.exp(-z_N_M))
    rows = np.arange(len(table))
    expected = np.tile(expected_usd_M, (len(table), 1))
    candidates = np.isfinite(table.score)
    found = []
    for weight in WEIGHTS:
        taken = choose(quality, expected, weight, c_ref_usd, candidates)
        paid = table.cost[rows, taken] / c_ref_usd
        found.append(float((table.score[rows, taken] - weight * paid).mean()))
    return float(np.mean(found))
