"""Near-duplicate prompts on both sides of a split.

Similarity is the Jaccard index of character shingles (eight letters of the normalised text).
Shingles that stand in many prompts (more than 25, or 0.2 %) are a template, not a question, and
count for nothing: without that all prompts of a benchmark that open with the same instructions
look alike. So a question with other numbers in it is no duplicate, and more than 25 copies of one
prompt are found only if their normalised texts are equal.
Candidates come from MinHash with banding (Broder 1997), and each is then checked exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xrouter_lg.outcomes.schema import normalise_prompt

Hashes = npt.NDArray[np.uint64]
_LETTERS = 8
_BANDS, _ROWS = 20, 3
"""Chance to see a pair of similarity s: 1 - (1 - s³)²⁰; 0.8 → 0.9999998, 0.6 → 0.99."""
_MAX_SHINGLES = 6_000_000
"""Beyond this many a fixed share of all shingles is kept, chosen by hash: the same in each text."""
_TEMPLATE_SHARE, _TEMPLATE_MIN = 0.002, 25
_MIN_SHINGLES = 4


@dataclass(frozen=True, slots=True)
class Leak:
    """A pair of prompts, one on each side."""

    train: int
    test: int
    similarity: float


@dataclass(frozen=True, slots=True)
class LeakReport:
    """Leaking pairs, most similar first, and the groups they form."""

    threshold: float
    pairs: tuple[Leak, ...]
    groups: tuple[tuple[int, ...], ...]
    """Prompts connected by near-duplication, straddling groups only."""
    test_prompts: int
    """Test prompts with a near-duplicate in train."""
    examples: tuple[tuple[str, str, float], ...]
    """Up to five (train text, test text, similarity), cut to 200 characters."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "threshold": self.threshold,
            "pairs": len(self.pairs),
            "groups": len(self.groups),
            "test_prompts": self.test_prompts,
            "examples": [
                {"train": a, "test": b, "similarity": round(s, 3)} for a, b, s in self.examples
            ],
        }

    def __str__(self) -> str:
        if not self.pairs:
            return f"no near-duplicates (similarity {self.threshold} or more) across the split"
        shown = "\n".join(
            f"  {s:.2f}  train: {a[:70]!r}\n        test: {b[:70]!r}" for a, b, s in self.examples
        )
        return (
            f"{self.test_prompts} test prompts have a near-duplicate in train "
            f"({len(self.groups)} groups, similarity {self.threshold} or more):\n{shown}"
        )


def find_leaks(
    prompts: Sequence[str], test: npt.NDArray[np.bool_], *, threshold: float = 0.8
) -> LeakReport:
    """Near-duplicates across a split; ``test`` is the mask [N] of the test side.

    Pairs within a group of mutual near-duplicates are listed along a chain, not all with all, so
    a thousand copies cost a thousand pairs.
    """
    if not 0.0 < threshold <= 1.0:
        raise ValueError(f"threshold is {threshold!r}; it must be above 0, at most 1")
    texts = [normalise_prompt(text) for text in prompts]
    group = _Groups(len(texts))
    pairs: dict[tuple[int, int], float] = {}
    same: dict[str, int] = {}
    for i, text in enumerate(texts):
        first = same.setdefault(text, i)
        if first != i:
            group.join(first, i)
            pairs[first, i] = 1.0
    unique = sorted(same.values())
    sets = dict(zip(unique, _shingle_sets([texts[i] for i in unique]), strict=True))
    for a, b in _candidates(unique, [sets[i] for i in unique]):
        similarity = _jaccard(sets[a], sets[b])
        if similarity >= threshold:
            group.join(a, b)
            pairs[a, b] = similarity
    return _report(prompts, test, threshold, group, pairs, texts)


def _shingle_sets(texts: Sequence[str]) -> list[Hashes]:
    """Sorted distinct shingle hashes of each text, without those of templates."""
    keep = min(1.0, _MAX_SHINGLES / max(sum(map(len, texts)), 1))
    bound = np.uint64(min(int(keep * 2**64), 2**64 - 1))
    sets: list[Hashes] = []
    for text in texts:
        hashes = np.unique(_shingles(text))
        sets.append(hashes if keep == 1.0 else hashes[hashes <= bound])
    if not sets:
        return []
    shingles, counts = np.unique(np.concatenate(sets), return_counts=True)
    limit = max(_TEMPLATE_MIN, _TEMPLATE_SHARE * len(texts))
    template = shingles[counts > limit]
    if not len(template):
        return sets
    # Both sorted: a binary search, where isin() would sort all templates anew for each text.
    places = (np.minimum(np.searchsorted(template, one), len(template) - 1) for one in sets)
    return [one[template[at] != one] for one, at in zip(sets, places, strict=True)]


def _shingles(text: str) -> Hashes:
    """A 64-bit hash of every run of eight characters (of the whole text if it is shorter)."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    width = max(min(_LETTERS, len(letters)), 1)
    count = max(len(letters) - width + 1, 0)
    value = np.full(count, 0x9E3779B97F4A7C15, dtype=np.uint64)
    for offset in range(width):
        value = (value ^ letters[offset : offset + count]) * np.uint64(0x100000001B3)
        value ^= value >> np.uint64(29)
    return _mixed(value)


def _mixed(value: Hashes) -> Hashes:
    """SplitMix64's finaliser: every bit of the input moves every bit of the output."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _candidates(numbers: Sequence[int], sets: Sequence[Hashes]) -> Iterator[tuple[int, int]]:
    """Pairs that share a band; within a band's bucket neighbours only, which chains them."""
    rich = [k for k, one in enumerate(sets) if len(one) >= _MIN_SHINGLES]
    if len(rich) < 2:
        return
    lengths = np.array([len(sets[k]) for k in rich])
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    everything = np.concatenate([sets[k] for k in rich])
    seen: set[tuple[int, int]] = set()
    seeds = _mixed(np.arange(1, _BANDS * _ROWS + 1, dtype=np.uint64))
    for band in range(_BANDS):
        signature = np.zeros(len(rich), dtype=np.uint64)
        for row in range(_ROWS):
            seed = seeds[band * _ROWS + row]
            lowest = np.minimum.reduceat(_mixed(everything ^ seed), starts)
            signature = _mixed(signature ^ lowest)
        order = np.argsort(signature, kind="stable")
        alike = np.flatnonzero(signature[order][1:] == signature[order][:-1])
        for position in alike:
            pair = numbers[rich[order[position]]], numbers[rich[order[position + 1]]]
            if pair not in seen:
                seen.add(pair)
                yield pair


def _jaccard(a: Hashes, b: Hashes) -> float:
    both = len(np.intersect1d(a, b, assume_unique=True))
    return both / (len(a) + len(b) - both)


def _report(
    prompts: Sequence[str],
    test: npt.NDArray[np.bool_],
    threshold: float,
    group: _Groups,
    pairs: dict[tuple[int, int], float],
    texts: Sequence[str],
) -> LeakReport:
    straddling = [g for g in group.all() if len({bool(test[i]) for i in g}) == 2]
    found = [
        Leak(*((b, a) if test[a] else (a, b)), similarity)
        for (a, b), similarity in pairs.items()
        if test[a] != test[b]
    ]
    found.sort(key=lambda leak: (-leak.similarity, leak.train, leak.test))
    # One example a group, the unlike ones too: a list of identical pairs teaches nothing.
    by_group: dict[int, Leak] = {}
    for leak in found:
        by_group.setdefault(group.find(leak.train), leak)
    unlike = sorted(by_group.values(), key=lambda leak: leak.similarity)[:5]
    return LeakReport(
        threshold,
        tuple(found),
        tuple(straddling),
        sum(1 for g in straddling for i in g if test[i]),
        tuple((prompts[k.train][:200], prompts[k.test][:200], k.similarity) for k in unlike),
    )


class _Groups:
    """Union-find over prompt numbers."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, i: int) -> int:
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        self._parent[max(a, b)] = min(a, b)

    def all(self) -> list[tuple[int, ...]]:
        """Groups of two or more, members in order."""
        groups: dict[int, list[int]] = {}
        for i in range(len(self._parent)):
            groups.setdefault(self.find(i), []).append(i)
        return [tuple(members) for members in groups.values() if len(members) > 1]
