"""A family head small enough to reckon with by hand, and a checkpoint of it alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from tests.support.grids import make_grid
from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import CardStats, HeadStats
from xrouter_lg.fitting.family_head import head_of

SUMS = [f"what is the sum of {a} and {b} please" for a in range(10, 20) for b in range(30, 36)]
POEMS = [
    f"write a poem about the {a} {b} at night"
    for a in ("red", "blue", "green", "old", "tall", "small")
    for b in ("house", "river", "tree", "horse", "ship", "road", "bird", "stone", "hill", "sea")
]
PROMPTS = SUMS + POEMS


def flat_head(
    cards: Sequence[str], mean: Sequence[float], covariance: Floats, partitions: int = 1
) -> FamilyHead:
    """A head that expects the same of every request: two families a partition, alike in all, and
    the words of ``PROMPTS``."""
    rng = np.random.default_rng(0)
    score = np.tile([0.2, 0.8], (len(PROMPTS), 1)) + rng.uniform(-0.1, 0.1, (len(PROMPTS), 2))
    labels = ["sums"] * len(SUMS) + ["poems"] * len(POEMS)
    made = head_of(
        make_grid(score.tolist(), [[1.0, 2.0]] * len(PROMPTS), prompts=PROMPTS, families=labels),
        ("a", "b"),
    )
    assert made is not None
    first = int(made.arrays["block_B"][0])
    rows = {name: made.arrays[name][:first] for name in ("weight_F_P", "bias_F")}
    root = np.linalg.cholesky(np.asarray(covariance) + 1e-15 * np.eye(len(cards)))
    ones = np.ones((first * partitions, 1), dtype=np.float32)
    arrays = {
        **made.arrays,
        **{name: np.concatenate([part] * partitions) for name, part in rows.items()},
        "block_B": np.array([first] * partitions, dtype=np.int32),
        "share_F": ones[:, 0] / len(ones),
        "quality_F_M": np.float32(ones * np.array(mean)),
        "mean_F_M": np.float32(ones * np.array(mean)),
        "root_F_M_M": np.float32(ones[:, :, None] * root),
        "worth_F_M": np.float32(ones * np.ones(len(cards))),
        "cost_ratio_F_M": np.float32(ones * np.ones(len(cards))),
    }
    names = [f"family {at}" for at in range(len(ones))]
    return FamilyHead(arrays, names, cards)


def write_head(
    folder: Path, head: FamilyHead, mean: Sequence[float], usd: Sequence[float]
) -> Manifest:
    """A checkpoint of kind ``head``; ``usd`` is what a call to each card costs, its reference the
    dearest."""
    return write_checkpoint(
        folder,
        manifest_of(head, mean, usd),
        lambda target: save_file(head.arrays, target / HEAD_FILE),
    )


def manifest_of(head: FamilyHead, mean: Sequence[float], usd: Sequence[float]) -> Manifest:
    cards = tuple(
        CardStats(name, "", math.log(q / (1 - q)), 0.0, 0.0, cost)
        for name, q, cost in zip(head.cards, mean, usd, strict=True)
    )
    return Manifest(
        kind="head",
        cards=cards,
        c_ref_usd=max(usd),
        best_fixed=head.cards[-1],
        family_head=HeadStats(HEAD_FILE, head.families, head.cards, 1.0, 0.0, 0.1),
    )
