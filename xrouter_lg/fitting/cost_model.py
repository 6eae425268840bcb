"""What a request costs with each card, out of what kind of task it seems to be."""

from __future__ import annotations

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.parts import CostModel

_RIDGE = 30.0
"""Prompts' worth of pull towards "this prompt costs what the average one does"."""


def fit_cost_model(
    z_N_M: Floats, prompt_tokens_N: Floats, cost_usd_N_M: Floats, prior_M: Floats
) -> CostModel:
    """Ridge regression of log(cost / mean cost) on log-odds and prompt length.

    A logarithm's mean lies below the mean's logarithm: the bias is set so that the fitted ratios
    average to 1 over the training prompts, and expected costs add up to what was paid.

    A cost that is NaN is no outcome: each card is fitted on the prompts where it has one. A card
    whose log-odds were not read on a prompt (NaN) stands at its ``prior_M`` there, as in serving.
    """
    z_N_M = np.where(np.isfinite(z_N_M), z_N_M, prior_M)
    known_N_M = np.isfinite(cost_usd_N_M)
    parts: dict[int, tuple[CostModel, int]] = {}
    for pattern in np.unique(known_N_M, axis=1).T:
        rows = np.flatnonzero(pattern)
        own = np.flatnonzero((known_N_M == pattern[:, None]).all(0))
        fitted = _fit_costs(z_N_M[rows], prompt_tokens_N[rows], cost_usd_N_M[np.ix_(rows, own)])
        parts.update({int(m): (fitted, place) for place, m in enumerate(own)})
    of_each = [parts[m] for m in range(cost_usd_N_M.shape[1])]
    return CostModel(
        **{
            name: tuple(getattr(model, name)[place] for model, place in of_each)
            for name in ("bias", "weight", "tokens", "low", "high")
        }
    )


def _fit_costs(z_N_M: Floats, prompt_tokens_N: Floats, cost_usd_N_M: Floats) -> CostModel:
    """The regression for cards whose costs are known on all of these prompts."""
    mean_M = cost_usd_N_M.mean(0)
    paid_M = np.where(mean_M > 0, mean_M, 1.0)
    # What a free card costs does not vary: its ratio is 1 everywhere.
    varied_N_M = np.where(mean_M > 0, cost_usd_N_M, 1.0)
    ratio_N_M = np.log(np.maximum(varied_N_M, 1e-3 * paid_M) / paid_M)
    x = np.concatenate([z_N_M, np.log(np.maximum(prompt_tokens_N, 1.0))[:, None]], axis=1)
    mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
    standard = (x - mean) / scale
    gram = standard.T @ standard + _RIDGE * np.eye(x.shape[1])
    weight = np.linalg.solve(gram, standard.T @ (ratio_N_M - ratio_N_M.mean(0))) / scale[:, None]
    fitted = x @ weight
    low, high = np.quantile(ratio_N_M, [0.02, 0.98], axis=0)
    bias = ratio_N_M.mean(0) - fitted.mean(0)
    for _ in range(8):  # clipping moves the mean a little; this settles at once
        bias = bias - np.log(np.exp(np.clip(fitted + bias, low, high)).mean(0))
    return CostModel(
        bias=tuple(bias.tolist()),
        weight=tuple(tuple(row) for row in weight[:-1].T.tolist()),
        tokens=tuple(weight[-1].tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )
