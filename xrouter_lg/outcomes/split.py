"""The two splits of a grid: prompts by their hash, and whole families left out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from xrouter_lg.arrays import Bools
from xrouter_lg.outcomes.grid import OutcomeGrid


def unit_hash(text: str, seed: int) -> float:
    """A stable number in [0, 1) for a text: the same on every machine and in every version."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def trained_on(prompt_ids: Sequence[str], *, seed: int, train_share: float) -> Bools:
    """[N] which prompts a random split puts on the training side."""
    return np.array([unit_hash(i, seed) < train_share for i in prompt_ids], dtype=np.bool_)


def random_split(
    grid: OutcomeGrid, *, seed: int, train_share: float = 0.5
) -> tuple[OutcomeGrid, OutcomeGrid]:
    """Train and test by a hash of the prompt id: adding prompts moves none of the others."""
    in_train = trained_on(grid.prompt_ids, seed=seed, train_share=train_share)
    return grid.rows(in_train), grid.rows(~in_train)


def family_folds(
    grid: OutcomeGrid, *, seed: int, folds: int = 3, depth: int | None = None
) -> Iterator[tuple[OutcomeGrid, OutcomeGrid, Bools]]:
    """Train, test and the test mask over the grid, each group of families unseen in one fold.

    `depth` holds out by the first parts of `source|task|category`: 1 holds out whole sources, 2
    tasks with all their categories, None single families, whose siblings stay in sight. Groups
    are dealt by their hash, so a fold's groups are the same for every pool.
    """
    for test in fold_masks(grid.families, seed=seed, folds=folds, depth=depth):
        yield grid.rows(~test), grid.rows(test), test


def fold_masks(
    families: Sequence[str], *, seed: int, folds: int = 3, depth: int | None = None
) -> Iterator[Bools]:
    """The prompts [N] of each fold of the families; see :func:`family_folds`.

    Raises:
        ValueError: fewer than two groups of families.
    """
    groups = ["|".join(name.split("|")[:depth]) for name in families]
    names = sorted(set(groups), key=lambda name: unit_hash(name, seed))
    if len(names) < 2:
        raise ValueError(f"leaving families out needs at least two, got {names!r}")
    used = min(folds, len(names))
    for fold in range(used):
        held_out = set(names[fold::used])
        yield np.array([group in held_out for group in groups])
