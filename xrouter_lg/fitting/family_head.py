"""Fit the family head of a checkpoint (:mod:`xrouter_lg.checkpoints.family_head`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.parts import HeadStats
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.features import REACH, Arrays, Features
from xrouter_lg.value.grouping import Grouping, Partition, group
from xrouter_lg.value.means import over_mean
from xrouter_lg.value.model import ValueModel


def fit_family_head(
    features: Features,
    grouping: Grouping,
    evidence: Evidence,
    cost_usd_N_M: Floats,
    cards: Sequence[str],
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
    model = ValueModel.fit(features.plane_N_P, partitions, evidence, cost_usd_N_M)
    return export_head(features, model, cost_usd_N_M, cards)


def export_head(
    features: Features, model: ValueModel, cost_usd_N_M: Floats, cards: Sequence[str]
) -> FamilyHead:
    """A value model as a checkpoint keeps it."""
    mean_M = np.array([np.nanmean(c) if np.isfinite(c).any() else np.nan for c in cost_usd_N_M.T])
    arrays: Arrays = {
        "buckets_K": features.known_K.astype(np.int32),
        "idf_K": features.idf_K.astype(np.float32),
        "basis_K_D": features.basis_K_D.astype(np.float16),
        "length": np.array(features.length, dtype=np.float32),
        "reach": np.array([REACH], dtype=np.float32),
        "block_B": np.array([len(own.names) for own in model.partitions], dtype=np.int32),
    }
    if (seen := features.seen_E_D) is not None:
        arrays["seen_E_D"] = seen.astype(np.float16)
    parts = [_of_partition(model, at, mean_M) for at in range(len(model.partitions))]
    for name in parts[0]:
        joined = np.concatenate([part[name] for part in parts])
        # In C order: safetensors writes an array's memory as it lies, whatever its order.
        arrays[name] = np.ascontiguousarray(joined, dtype=np.float32)
    if features.tools is not None:
        arrays.update(features.tools.arrays())
        finest = model.partitions[-1]
        arrays.update(features.tools.shape_arrays(features.prompts, finest.family_N))
    names = [name for own in model.partitions for name in own.names]
    return FamilyHead(arrays, names, cards)


def _of_partition(model: ValueModel, at: int, mean_usd_M: Floats) -> dict[str, Floats]:
    """Arrays of one partition's families."""
    own, reader, value = model.partitions[at], model.readers[at], model.posteriors[at]
    jitter = 1e-9 * np.eye(value.mean_F_M.shape[1])
    share = np.bincount(own.family_N, minlength=len(own.names)) / len(own.family_N)
    return {
        "share_F": share / len(model.partitions),
        "weight_F_P": reader.weight_F_P,
        "bias_F": reader.bias_F,
        "quality_F_M": value.cautious(model.caution),
        "mean_F_M": value.mean_F_M,
        "root_F_M_M": np.asarray(np.linalg.cholesky(value.covariance_F_M_M + jitter)),
        "worth_F_M": value.worth_F_M,
        "cost_ratio_F_M": over_mean(model.usd_F_M[at], mean_usd_M),
    }


def head_of(
    table: OutcomeGrid, cards: Sequence[str], *, before: FamilyHead | None = None
) -> FamilyHead | None:
    """The head of all that a table tells, holes and all; None where there is nothing to tell
    apart. ``before`` is the head that served until now, whose families are kept where they are
    found again."""
    features, evidence = Features.of(table.prompts), Evidence.of(table)
    start = None if before is None else read_partition(before, table.prompts)
    grouping = group(features, table.families, evidence, table.cost, start=start)
    return fit_family_head(features, grouping, evidence, table.cost, cards)


def read_partition(head: FamilyHead, prompts: Sequence[str]) -> Partition:
    """How a head tells requests apart in its first partition."""
    names = head.partition
    shares = np.array([head.probabilities(prompt)[0][: len(names)] for prompt in prompts])
    return Partition(names, shares.argmax(1).astype(np.int64))


def head_stats(head: FamilyHead, features: Features, *, share: float) -> HeadStats:
    """What the manifest says of a head; ``features`` are those it was fitted on."""
    low, high = features.known_range()
    return HeadStats(HEAD_FILE, head.families, head.cards, share, low, high)
