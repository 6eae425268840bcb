"""Near-duplicates across a split: prompts to judge that are all but known from the other side.

Nothing is moved for them: the sides of a split are what its seed says. They are counted, so that
whoever reads a figure knows how much of it may be memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.outcomes.schema import normalise_prompt

THRESHOLD = 0.8
"""Jaccard similarity of word pairs that counts: about one word in twenty differs."""
_FEATURES = 2**22
_TEMPLATE_SHARE, _TEMPLATE_MIN = 0.002, 25
"""A word pair of more texts than these is a template's: it tells no two prompts apart."""
_LEAST = 4
"""Word pairs, without a template's, below which only equal texts count."""
_CHUNK = 1024
_WORD = r"\w+|[^\w\s]"
"""Signs too: they tell formulas and code apart."""


@dataclass(frozen=True)
class NearDuplicates:
    """For each of N test prompts the train prompt that is most like it."""

    train_N: Ints
    """Its number, -1 where none is near."""
    similarity_N: Floats
    """1 for the same text but for case and blanks, else at least :data:`THRESHOLD`; 0 for none."""

    def to_dict(self) -> dict[str, Any]:
        """For a manifest or a report: counts, without the prompts."""
        same = int((self.similarity_N == 1.0).sum())
        return {
            "threshold": THRESHOLD,
            "same": same,
            "near": int((self.train_N >= 0).sum()) - same,
            "test_prompts": len(self.train_N),
        }

    def __str__(self) -> str:
        found = self.to_dict()
        return (
            f"{found['same']} of {found['test_prompts']} have the text of one learned from, "
            f"{found['near']} more are near to one (similarity {THRESHOLD:g} or more)"
        )


def near_duplicates(train: Sequence[str], test: Sequence[str]) -> NearDuplicates:
    """Compare texts by their pairs of neighbouring words, those of templates left out."""
    from sklearn.feature_extraction.text import HashingVectorizer

    texts = [normalise_prompt(text) for text in (*train, *test)]
    first: dict[str, int] = {}
    for number, text in enumerate(texts[: len(train)]):
        first.setdefault(text, number)
    nearest = np.array([first.get(text, -1) for text in texts[len(train) :]], dtype=np.int64)
    similarity: Floats = (nearest >= 0).astype(np.float64)
    if not len(train) or not len(test):
        return NearDuplicates(nearest, similarity)
    words = HashingVectorizer(
        n_features=_FEATURES,
        ngram_range=(2, 2),
        token_pattern=_WORD,
        binary=True,
        norm=None,
        alternate_sign=False,
        lowercase=False,
    )
    pairs = words.transform(texts).astype(np.float32).tocsc()
    in_texts = np.diff(pairs.indptr)
    usual = (in_texts > 1) & (in_texts <= max(_TEMPLATE_MIN, _TEMPLATE_SHARE * len(texts)))
    # A pair that a single text has can't be shared, but counts in that text's size.
    size = np.asarray(pairs[:, usual | (in_texts == 1)].sum(axis=1)).ravel()
    shared = pairs[:, usual].tocsr()
    known, asked = shared[: len(train)].T.tocsc(), shared[len(train) :]
    for start in range(0, len(test), _CHUNK):
        both = (asked[start : start + _CHUNK] @ known).tocoo()
        at, a, b = both.row + start, size[both.row + start + len(train)], size[both.col]
        alike = both.data / (a + b - both.data)
        found = np.flatnonzero((alike >= THRESHOLD) & (np.minimum(a, b) >= _LEAST))
        for k in found[np.argsort(alike[found], kind="stable")]:
            if similarity[at[k]] < 1.0:
                nearest[at[k]], similarity[at[k]] = both.col[k], min(float(alike[k]), 1 - 1e-9)
    return NearDuplicates(nearest, similarity)
