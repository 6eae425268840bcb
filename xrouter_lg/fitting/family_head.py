"""Fit the family head of a checkpoint (:mod:`xrouter_lg.checkpoints.family_head`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, hstack
from sklearn.linear_model import LogisticRegression

from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.family_head import BUCKETS, HEAD_FILE, FamilyHead, bucket_counts
from xrouter_lg.checkpoints.parts import HeadStats
from xrouter_lg.checkpoints.tool_fit import (
    STEM_BUCKETS,
    stem_bucket,
    stem_weight,
    stems,
    tool_features,
)
from xrouter_lg.fitting.family_means import STRENGTH, cost_ratios, family_means, group_means

_SEEN_IN = 2
"""Prompts that a word must occur in to count as known: once may be a typing error."""
_INVERSE_REGULARISATION = 30.0
_SHAPE_QUANTILES = (0.8, 0.95)
"""Of the training prompts' distances to the nearest family: where trust begins to fall, and where
nothing is left of it. Found by leaving families out; it does not hurt on families seen."""
_LEAST_SPREAD = 0.16
"""Least spread of a feature in a family, as a share of its spread over all prompts."""
_TOOL_SCALE = 0.3
"""Length of one standard deviation of a tool feature; all words of a request together have 1."""
_TOOL_REACH = 4.0
"""Standard deviations at which a tool feature is clipped."""
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
    tools = _tool_arrays(prompts)
    if tools:
        tools.update(_shape_arrays(tools.pop("raw_N_T").astype(np.float64), prompts, families))
        width = features.shape[1]
        features = hstack([features, csr_matrix(tools.pop("features_N_T"))]).tocsr()
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=200, tol=1e-3)
    model.fit(features, list(families))
    weight, bias = model.coef_, model.intercept_
    if len(names) == 2:  # sklearn keeps one row then: the log-odds of the second
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    if tools:
        tools["tool_weight_F_T"] = np.ascontiguousarray(weight[:, width:], dtype=np.float32)
        weight = weight[:, :width]
    quality = family_means(score_N_M, cost_usd_N_M, families)
    cost = group_means(cost_usd_N_M, families, strength=STRENGTH)
    counts = np.array([list(families).count(name) for name in names])
    arrays = {
        "share_F": (counts / counts.sum()).astype(np.float32),
        "buckets_K": known.astype(np.int32),
        "idf_K": idf.astype(np.float32),
        # In C order: safetensors writes an array's memory as it lies, whatever its order.
        "weight_F_K": np.ascontiguousarray(weight, dtype=np.float16),
        "bias_F": bias.astype(np.float32),
        "quality_F_M": np.clip(quality, 0.0, 1.0).astype(np.float32),
        "cost_ratio_F_M": cost_ratios(cost, np.nanmean(cost_usd_N_M, axis=0)).astype(np.float32),
        **tools,
    }
    return FamilyHead(arrays, names, cards)


def _tool_arrays(prompts: Sequence[str]) -> dict[str, npt.NDArray[np.generic]]:
    """What a head keeps of the tool features, with ``raw_N_T`` and, scaled, ``features_N_T`` of
    these prompts; empty where none of them defines tools."""
    seen_in = np.zeros(STEM_BUCKETS, dtype=np.int64)
    for prompt in prompts:
        seen_in[list({stem_bucket(stem) for stem in stems(prompt)})] += 1
    at = np.flatnonzero(seen_in)
    rarity_S = np.log((1 + len(prompts)) / (1 + seen_in[at])).astype(np.float32)
    weight = stem_weight(at.tolist(), rarity_S.tolist(), len(prompts))
    raw = np.array([tool_features(prompt, weight) for prompt in prompts])
    mean, scale = raw.mean(0), np.maximum(raw.std(0), 1e-6)
    if not raw.any():
        return {}
    unit = scale / _TOOL_SCALE
    reach = _TOOL_REACH * _TOOL_SCALE
    return {
        "raw_N_T": raw,
        "features_N_T": np.clip((raw - mean) / unit, -reach, reach),
        "tool_mean_T": mean.astype(np.float32),
        "tool_unit_T": unit.astype(np.float32),
        "tool_reach": np.array([reach], dtype=np.float32),
        "stems_S": at.astype(np.int32),
        "stem_weight_S": rarity_S,
        "prompts": np.array([len(prompts)], dtype=np.int64),
    }


def _shape_arrays(
    raw_N_T: Floats, prompts: Sequence[str], families: Sequence[str]
) -> dict[str, npt.NDArray[np.generic]]:
    """Mean and unit per family of what its requests look like, and the usual distances."""
    length_N = np.log1p([len(prompt) for prompt in prompts])
    shape_N_S = np.concatenate([raw_N_T, length_N[:, None]], axis=1)
    names = np.array(sorted(set(families)))
    of_N = np.array(families)
    mean_F_S = np.stack([shape_N_S[of_N == name].mean(0) for name in names])
    # A feature that never varies in a small family may well vary in its next request.
    least_S = (_LEAST_SPREAD * shape_N_S.std(0) + 1e-6) ** 2
    unit_F_S = np.sqrt([shape_N_S[of_N == name].var(0) + least_S for name in names])
    gap_N_F = np.stack(
        [(((shape_N_S - m) / u) ** 2).mean(1) for m, u in zip(mean_F_S, unit_F_S, strict=True)], 1
    )
    low, high = np.quantile(gap_N_F.min(1), _SHAPE_QUANTILES)
    return {
        "shape_mean_F_S": mean_F_S.astype(np.float32),
        "shape_unit_F_S": unit_F_S.astype(np.float32),
        "shape_range": np.array([low, max(high, low + 1e-6)], dtype=np.float32),
    }


def known_range(prompts: Sequence[str]) -> tuple[float, float]:
    """Known shares between which trust rises from 0 to 1.

    A prompt's share is taken as if it had not been trained on: its own words count as known only
    if another prompt has them (twice). The upper end is what 19 of 20 prompts pass.
    """
    high = float(np.quantile(known_shares(prompts), 0.05))
    return max(high - _FOREIGN_WIDTH, 0.0), max(high, 1e-6)


def known_shares(prompts: Sequence[str]) -> list[float]:
    """Of each prompt, the share of words that would be known if it had not been trained on."""
    raw = _counted(prompts)
    seen_in = np.asarray((raw > 0).sum(axis=0)).ravel()
    shares = []
    for row in range(raw.shape[0]):
        start, stop = raw.indptr[row], raw.indptr[row + 1]
        value = raw.data[start:stop]
        others = seen_in[raw.indices[start:stop]] - 1
        shares.append(float(value[others >= _SEEN_IN].sum() / max(value.sum(), 1e-9)))
    return shares


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
