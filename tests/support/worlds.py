"""Small worlds with a known truth, and evidence drawn from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.value.evidence import Evidence


def evidence(
    prompt: Any, card: Any, score: Any, *, prompts: int, cards: int, **more: Any
) -> Evidence:
    """Observations as listed; ``error``, ``worth`` and ``propensity`` where they are told."""
    rows = len(prompt)
    told = {
        name: np.broadcast_to(np.asarray(more.get(name, usual), dtype=float), (rows,)).copy()
        for name, usual in (("error", 0.0), ("worth", 1.0), ("propensity", np.nan))
    }
    return Evidence(
        np.asarray(prompt, dtype=np.int64),
        np.asarray(card, dtype=np.int64),
        np.asarray(score, dtype=float),
        told["error"],
        told["worth"],
        told["propensity"],
        prompts,
        cards,
    )


def of_grid(score_N_M: Floats, **more: Any) -> Evidence:
    """All cells of a grid that are no NaN."""
    row, card = np.nonzero(np.isfinite(score_N_M))
    n, m = score_N_M.shape
    return evidence(row, card, score_N_M[row, card], prompts=n, cards=m, **more)


def draw(truth_F_M: Floats, family_N: Ints, seed: int) -> Floats:
    """[N, M] right or wrong."""
    rng = np.random.default_rng(seed)
    right = rng.random((len(family_N), truth_F_M.shape[1])) < truth_F_M[family_N]
    return right.astype(np.float64)
