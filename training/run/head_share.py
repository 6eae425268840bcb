"""How much say the family head has beside the language model, found on validation prompts.

The language model's tokens are paid for on every request, the head's words are not. So the head has
all of the say unless prompts that neither learned from show that the model's reading is worth more
than it costs, by more than a standard error. A checkpoint whose head has all of it never reads
its language model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.routed_utility import DENSE_WEIGHTS, routed_utility

SHARES = (1.0, 0.9, 0.7, 0.5, 0.3, 0.0)
"""Shares of the head that are tried; at 1 the language model is not read."""


@dataclass(frozen=True)
class ShareChoice:
    """The share taken, and what each of them gave."""

    share: float
    utility: Mapping[str, float]
    """By share: mean over validation prompts of score less weighted cost, router included."""
    margin: float
    """How much more the best share with the language model gave than the head alone ..."""
    error: float
    """... and the standard error of that."""


def choose_share(
    expected: Mapping[float, tuple[Floats, Floats]],
    score_N_M: Floats,
    cost_usd_N_M: Floats,
    *,
    router_usd: float,
    c_ref_usd: float,
) -> ShareChoice:
    """The share whose decisions are worth most on N validation prompts.

    ``expected`` gives for each share the expected score [N, M] and USD [N, M]; 1.0 must be among
    them. Outcomes are NaN where a card is no candidate. ``router_usd`` is what one reading of the
    language model costs.
    """
    reading = float(np.mean(DENSE_WEIGHTS)) * router_usd / c_ref_usd
    found_N = {
        share: routed_utility(
            quality_N_M, usd_N_M, score_N_M, cost_usd_N_M, c_ref_usd, DENSE_WEIGHTS
        )
        - (0.0 if share == 1.0 else reading)
        for share, (quality_N_M, usd_N_M) in expected.items()
    }
    means = {share: float(utility_N.mean()) for share, utility_N in found_N.items()}
    shown = {f"{share:g}": value for share, value in means.items()}
    rivals = [share for share in found_N if share != 1.0]
    if not rivals:
        return ShareChoice(1.0, shown, 0.0, 0.0)
    best = max(rivals, key=lambda share: (means[share], share))
    gap_N = found_N[best] - found_N[1.0]
    margin, error = float(gap_N.mean()), float(gap_N.std()) / math.sqrt(len(gap_N))
    return ShareChoice(best if margin > error else 1.0, shown, margin, error)
