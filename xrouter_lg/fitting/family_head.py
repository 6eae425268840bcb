"""Fit the family head of a checkpoint (:mod:`xrouter_lg.checkpoints.family_head`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.linear_model import LogisticRegression

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.parts import HeadStats
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.costs import family_costs
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.features import REACH, Arrays, Features
from xrouter_lg.value.grouping import Grouping, Partition, group
from xrouter_lg.value.means import over_mean
from xrouter_lg.value.posterior import fit_posterior

CAUTION = 2.0
"""Standard errors by which a card that is known less than others in a family is counted on less."""
_INVERSE_REGULARISATION = 30.0


def fit_family_head(
    features: Features,
    grouping: Grouping,
    evidence: Evidence,
    cost_usd_N_M: Floats,
    cards: Sequence[str],
    *,
    caution: float = CAUTION,
) -> FamilyHead | None:
    """The head learned from N requests and what is known of M cards on them; None where all are of
    one family, or have no word in common: nothing to tell apart.

    Raises:
        ValueError: lengths that differ.
    """
    if not len(features) == evidence.prompts == len(cost_usd_N_M):
        raise ValueError(
            f"{len(features)} prompts, evidence of {evidence.prompts} and {len(cost_usd_N_M)} rows "
            "of costs must be as many"
        )
    partitions = [own for own in grouping.partitions if len(own.names) > 1]
    if not partitions or not len(features.known_K):
        return None
    arrays: Arrays = {
        "buckets_K": features.known_K.astype(np.int32),
        "idf_K": features.idf_K.astype(np.float32),
        "basis_K_D": features.basis_K_D.astype(np.float16),
        "length": np.array(features.length, dtype=np.float32),
        "reach": np.array([REACH], dtype=np.float32),
        "block_B": np.array([len(own.names) for own in partitions], dtype=np.int32),
    }
    mean_M = np.array([np.nanmean(c) if np.isfinite(c).any() else np.nan for c in cost_usd_N_M.T])
    parts = [
        _of_partition(own, features, evidence, cost_usd_N_M, mean_M, caution) for own in partitions
    ]
    for part in parts:
        part["share_F"] /= len(parts)
    for name in parts[0]:
        joined = np.concatenate([part[name] for part in parts])
        # In C order: safetensors writes an array's memory as it lies, whatever its order.
        arrays[name] = np.ascontiguousarray(joined, dtype=np.float32)
    if features.tools is not None:
        arrays.update(features.tools.arrays())
        arrays.update(features.tools.shape_arrays(features.prompts, partitions[-1].family_N))
    names = [name for own in partitions for name in own.names]
    return FamilyHead(arrays, names, cards)


def _of_partition(
    own: Partition,
    features: Features,
    evidence: Evidence,
    cost_usd_N_M: Floats,
    mean_usd_M: Floats,
    caution: float,
) -> dict[str, Floats]:
    """Arrays of one partition's families."""
    families = len(own.names)
    weight, bias = _regression(features.plane_N_P, own.family_N, families)
    value = fit_posterior(evidence, own.family_N, families)
    cost = family_costs(cost_usd_N_M, own.family_N, families)
    jitter = 1e-9 * np.eye(value.mean_F_M.shape[1])
    return {
        "share_F": np.bincount(own.family_N, minlength=families) / len(features),
        "weight_F_P": weight,
        "bias_F": bias,
        "quality_F_M": value.cautious(caution),
        "mean_F_M": value.mean_F_M,
        "root_F_M_M": np.asarray(np.linalg.cholesky(value.covariance_F_M_M + jitter)),
        "worth_F_M": value.worth_F_M,
        "cost_ratio_F_M": over_mean(cost, mean_usd_M),
    }


def _regression(plane_N_P: Floats, family_N: Ints, families: int) -> tuple[Floats, Floats]:
    """[F, P] and [F] of P(family | point)."""
    model = LogisticRegression(C=_INVERSE_REGULARISATION, max_iter=200, tol=1e-3)
    model.fit(plane_N_P, family_N)
    weight, bias = model.coef_, model.intercept_
    if families == 2:  # sklearn keeps one row then: the log-odds of the second
        weight, bias = np.vstack([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias


def head_of(table: OutcomeGrid, cards: Sequence[str]) -> FamilyHead | None:
    """The head of all that a table tells, holes and all; None where there is nothing to tell
    apart."""
    features, evidence = Features.of(table.prompts), Evidence.of(table)
    grouping = group(features, table.families, evidence, table.cost)
    return fit_family_head(features, grouping, evidence, table.cost, cards)


def head_stats(head: FamilyHead, prompts: Sequence[str], *, share: float) -> HeadStats:
    """What the manifest says of a head; ``prompts`` are those it was fitted on."""
    low, high = Features.of(prompts).known_range()
    return HeadStats(HEAD_FILE, head.families, head.cards, share, low, high)
