"""Fit the family head of a checkpoint (:mod:`xrouter_lg.policies.family_head`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from training.judge.baselines.base import group_means
from xrouter_lg.checkpoint import HeadStats
from xrouter_lg.policies.family_head import BUCKETS, FamilyHead, bucket_counts

Floats = npt.NDArray[np.float64]

HEAD_FILE = "family_head.safetensors"

_SEEN_IN = 2
"""Prompts that a word must occur in to count as known: once may be a typing error."""
_INVERSE_REGULARISATION = 30.0
_STRENGTH = 3.0
"""Prompts' worth of the source's mean that a family's mean is mixed with."""
_FOREIGN_WIDTH = 0.2
"""Known share over which trust falls from one to nothing, below what is usual in training."""


def fit_family_head(
    prompts: Sequence[str],
    families: Sequence[str],
    score_N_M: Floats,
    cost_usd_N_M: Floats,
    cards: Sequence[str],
) -> FamilyHead | None:
    """The head learned from N prompts; None where all are of one family: nothing to tell apart.

    Raises:
        ValueError: lengths that differ.
    """
    if not len(prompts) == len(families) == len(score_N_M) == len(cost_usd_N_M):
        raise ValueError(
            f"{len(prompts)} prompts, {len(families)} families, {len(score_N_M)} rows of scores "
            f"and {len(cost_usd_N_M)} of costs must be as many"
        )
    names = tuple(sorted(set(families)))
    if len(names) < 2:
        return None
    raw = _counted(prompts)
    seen_in = np.asarray((raw > 0).sum(axis=0)).ravel()
    known = np.flatnonzero(seen_in >= _SEEN_IN)
    if not len(known):
        return None
    idf = np.log((1 + len(prompts)) / (1 + seen_in[known])) + 1.0
    features = _unit_rows(raw[:, known].multiply(idf[None, :]).tocsr())
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=200, tol=1e-3)
    model.fit(features, list(families))
    weight, bias = model.coef_, model.intercept_
    if len(names) == 2:  # sklearn keeps one row then: the log-odds of the second
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    quality = group_means(score_N_M, families, strength=_STRENGTH)
    cost = group_means(cost_usd_N_M, families, strength=_STRENGTH)
    counts = np.array([list(families).count(name) for name in names])
    arrays = {
        "share_F": (counts / counts.sum()).astype(np.float32),
        "buckets_K": known.astype(np.int32),
        "idf_K": idf.astype(np.float32),
        "weight_F_K": weight.astype(np.float16),
        "bias_F": bias.astype(np.float32),
        "quality_F_M": np.clip(quality, 0.0, 1.0).astype(np.float32),
        "cost_ratio_F_M": (cost / cost_usd_N_M.mean(0)).astype(np.float32),
    }
    return FamilyHead(arrays, names, cards)


def known_range(prompts: Sequence[str]) -> tuple[float, float]:
    """Known shares between which trust rises from 0 to 1.

    A prompt's share is taken as if it had not been trained on: its own words count as known only
    if another prompt has them (twice). The upper end is what 19 of 20 prompts pass.
    """
    raw = _counted(prompts)
    seen_in = np.asarray((raw > 0).sum(axis=0)).ravel()
    shares = []
    for row in range(raw.shape[0]):
        start, stop = raw.indptr[row], raw.indptr[row + 1]
        value = raw.data[start:stop]
        others = seen_in[raw.indices[start:stop]] - 1
        shares.append(float(value[others >= _SEEN_IN].sum() / max(value.sum(), 1e-9)))
    high = float(np.quantile(shares, 0.05))
    return max(high - _FOREIGN_WIDTH, 0.0), max(high, 1e-6)


def _counted(prompts: Sequence[str]) -> csr_matrix:
    """[N, BUCKETS] of 1 + log(count)."""
    starts, columns, values = [0], [], []
    for prompt in prompts:
        counts = bucket_counts(prompt)
        columns += list(counts)
        values += [1.0 + math.log(n) for n in counts.values()]
        starts.append(len(columns))
    return csr_matrix((values, columns, starts), shape=(len(prompts), BUCKETS))


def _unit_rows(rows: csr_matrix) -> csr_matrix:
    length = np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1))).ravel()
    return csr_matrix(rows.multiply(1.0 / np.maximum(length, 1e-9)[:, None]))


def head_stats(head: FamilyHead, prompts: Sequence[str], *, share: float) -> HeadStats:
    """What the manifest says of a head; ``prompts`` are those it was fitted on."""
    low, high = known_range(prompts)
    return HeadStats(HEAD_FILE, head.families, head.cards, share, low, high)
