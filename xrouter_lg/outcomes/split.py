"""Train and test sides of a set of prompts, and what leaks between them.

A side is decided by the hash of a prompt's normalised text and the seed: no random state, so the
same prompt lands on the same side on every machine, whatever stands around it, and duplicates
(across sources too) never straddle. ``families`` leaves whole families out instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from xrouter_lg.outcomes.leaks import LeakReport, find_leaks
from xrouter_lg.outcomes.schema import prompt_key

Mask = npt.NDArray[np.bool_]
Kind = Literal["random", "families"]
FamilyBy = Literal["category", "task", "source"]
Side = Literal["train", "test", "drop"]
_RANGE = 1 << 64


@dataclass(frozen=True, slots=True)
class Split:
    """Which prompts [N] train and which test; with ``drop`` some do neither."""

    kind: Kind
    seed: int
    train: Mask
    test: Mask
    families: tuple[str, ...]
    """Family of each prompt."""
    leaks: LeakReport
    """Near-duplicates across the sides as split, before any were moved."""
    moved: int = 0

    @property
    def held_out(self) -> tuple[str, ...]:
        """Families with prompts on the test side only."""
        at_test = {f for f, side in zip(self.families, self.test, strict=True) if side}
        at_train = {f for f, side in zip(self.families, self.train, strict=True) if side}
        return tuple(sorted(at_test - at_train))

    def to_dict(self) -> dict[str, Any]:
        """For a manifest: how it was made and what was found, without the prompts."""
        return {
            "kind": self.kind,
            "seed": self.seed,
            "train": int(self.train.sum()),
            "test": int(self.test.sum()),
            "held_out_families": list(self.held_out) if self.kind == "families" else [],
            "leaks": self.leaks.to_dict(),
            "moved": self.moved,
        }


def split_by_hash(prompts: Sequence[str], *, test_share: float = 0.5, seed: int = 0) -> Mask:
    """Mask [N] of the test side: the prompts whose hash is in the first ``test_share``."""
    _check_share(test_share)
    bound = int(test_share * _RANGE)
    return np.array([prompt_key(text, seed=seed) < bound for text in prompts], dtype=np.bool_)


def family_labels(
    sources: Sequence[str],
    tasks: Sequence[str],
    categories: Sequence[str | None],
    *,
    by: FamilyBy = "category",
) -> tuple[str, ...]:
    """A family for each prompt: ``source/category`` (``source/task`` where it has none)."""
    rows = zip(sources, tasks, categories, strict=True)
    if by == "source":
        return tuple(sources)
    if by == "task":
        return tuple(f"{source}/{task}" for source, task, _ in rows)
    return tuple(f"{source}/{category or task}" for source, task, category in rows)


def split_by_family(families: Sequence[str], *, test_share: float = 0.5, seed: int = 0) -> Mask:
    """Mask [N] of the test side: whole families, in the order of their hash, while they bring
    the test side's size nearer to ``test_share`` of the prompts. At least one stays on each side.

    Raises:
        ValueError: fewer than two families.
    """
    _check_share(test_share)
    sizes: dict[str, int] = {}
    for family in families:
        sizes[family] = sizes.get(family, 0) + 1
    if len(sizes) < 2:
        raise ValueError(
            f"leaving families out needs at least two, got {sorted(sizes)}; "
            "label the prompts (category), or use the random split"
        )
    wanted = test_share * len(families)
    chosen: set[str] = set()
    size = 0
    for family in sorted(sizes, key=lambda name: _family_hash(name, seed)):
        nearer = abs(size + sizes[family] - wanted) < abs(size - wanted)
        if nearer and len(chosen) < len(sizes) - 1:
            chosen.add(family)
            size += sizes[family]
    if not chosen:
        chosen.add(min(sizes, key=lambda name: (sizes[name], _family_hash(name, seed))))
    return np.array([family in chosen for family in families], dtype=np.bool_)


def make_split(
    prompts: Sequence[str],
    families: Sequence[str],
    *,
    kind: Kind = "random",
    test_share: float = 0.5,
    seed: int = 0,
    leak_threshold: float = 0.8,
    leaks_to: Side | None = None,
) -> Split:
    """A split with its leak report.

    Args:
        families: family of each prompt, as :func:`family_labels` gives it.
        leak_threshold: similarity (Jaccard of character shingles) that counts as a leak.
        leaks_to: where whole groups of near-duplicates that straddle go: ``train``, ``test``, or
            ``drop`` (the train members leave both sides); None only reports. With ``families``
            moving a group to ``train`` or ``test`` breaks up its family: prefer ``drop``.
    """
    if len(prompts) != len(families):
        raise ValueError(f"{len(prompts)} prompts but {len(families)} families")
    test = (
        split_by_hash(prompts, test_share=test_share, seed=seed)
        if kind == "random"
        else split_by_family(families, test_share=test_share, seed=seed)
    )
    train = ~test
    leaks = find_leaks(prompts, test, threshold=leak_threshold)
    moved = 0
    if leaks_to is not None:
        members = np.array(sorted({i for group in leaks.groups for i in group}), dtype=np.int64)
        goes = np.zeros(len(prompts), dtype=np.bool_)
        goes[members] = True
        moving = goes & (test if leaks_to == "train" else train)
        moved = int(moving.sum())
        if leaks_to == "train":
            test, train = test & ~moving, train | moving
        else:
            train = train & ~moving
            test = test | moving if leaks_to == "test" else test
    return Split(kind, seed, train, test, tuple(families), leaks, moved)


def _family_hash(family: str, seed: int) -> bytes:
    salt = seed.to_bytes(8, "little", signed=True)
    return hashlib.blake2b(family.encode(), digest_size=8, salt=salt).digest()


def _check_share(share: float) -> None:
    if not 0.0 < share < 1.0:
        raise ValueError(f"test_share is {share!r}; it must be above 0 and below 1")
