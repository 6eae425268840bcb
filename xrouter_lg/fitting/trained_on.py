"""What a checkpoint was trained on, small enough for its manifest: what drift is measured from.

Histograms over a handful of bins: of the prompts' lengths, and (with a family head) of the share of
their words that the other prompts have. They let nobody read a prompt back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from xrouter_lg.checkpoints.family_head import FamilyHead
from xrouter_lg.value.features import Features

BINS = 8


def reference_of(features: Features, head: FamilyHead | None) -> dict[str, Any]:
    """The manifest's ``reference`` for these training prompts, on which ``head`` was fitted."""
    prompts = features.prompts
    found: dict[str, Any] = {
        "prompts": len(prompts),
        "length": histogram([length_of(prompt) for prompt in prompts]),
    }
    if head is not None:
        found["known"] = histogram(features.known_shares())
        found["families"] = {
            name: float(share) * len(head.arrays["block_B"])
            for name, share in zip(head.partition, head.arrays["share_F"], strict=False)
        }
    return found


def length_of(prompt: str) -> float:
    """Logarithm of the characters."""
    return math.log(1 + len(prompt))


def histogram(values: Sequence[float]) -> dict[str, list[float]]:
    """Inner ``edges`` at the quantiles, and the ``shares`` of the bins between them. Values that
    many prompts have in common make fewer bins."""
    edges = np.unique(np.quantile(values, np.arange(1, BINS) / BINS))
    return {"edges": edges.tolist(), "shares": shares_in(values, edges.tolist())}


def shares_in(
    values: Sequence[float], edges: Sequence[float], weights: Sequence[float] | None = None
) -> list[float]:
    """Share of the values in each bin; a value on an edge belongs to the bin below it."""
    at = np.searchsorted(np.asarray(edges), np.asarray(values, dtype=float), side="left")
    counts = np.bincount(at, weights, minlength=len(edges) + 1)
    shares: list[float] = (counts / counts.sum()).tolist()
    return shares
