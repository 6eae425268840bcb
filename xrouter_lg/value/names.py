"""A name for every family that a person can read: its telling words."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from xrouter_lg.arrays import Ints

_WORDS = 3
_IN_AT_LEAST = 3
"""Requests of the family that a word must occur in: a name must not tell what one person wrote."""
_SHARE = 0.2
"""And the share of the family's requests."""
_LIFT = 1.5
"""How much likelier than elsewhere, where a family has such a word."""
_LONGEST = 24
_WORD = re.compile(r"(?u)\b[^\W\d_]{3,}\b")


def telling_words(prompts: Sequence[str], family_N: Ints) -> tuple[str, ...]:
    """[F] names such as ``refund, order``, each of its own.

    A word tells a family by how much likelier a request of it has the word than others do. Words of
    fewer than three requests, and words with digits, never make a name.
    """
    from sklearn.feature_extraction.text import CountVectorizer

    families = int(family_N.max()) + 1
    reader = CountVectorizer(
        binary=True, min_df=_IN_AT_LEAST, max_features=20_000, token_pattern=_WORD.pattern
    )
    try:
        there = reader.fit_transform([prompt[:4000] for prompt in prompts])
    except ValueError:  # no word is in three requests
        return tuple(f"family {number + 1}" for number in range(families))
    words = reader.get_feature_names_out()
    member = np.eye(families)[family_N]
    inside = np.asarray(there.T @ member).T
    size = member.sum(0)[:, None]
    outside = inside.sum(0)[None] - inside
    rest = len(prompts) - size
    p, q = (inside + 0.5) / (size + 1.0), (outside + 0.5) / (rest + 1.0)
    weight = p * np.log(p / q)
    fit = (inside >= np.maximum(_IN_AT_LEAST, _SHARE * size)) & (weight > 0)
    # Words that half of all requests have tell little, however often the family has them.
    telling = fit & (p > _LIFT * q)
    fit = np.where(telling.any(1, keepdims=True), telling, fit)
    taken: set[str] = set()
    names = []
    for family in range(families):
        order = np.argsort(-np.where(fit[family], weight[family], -np.inf), kind="stable")
        telling = [str(words[at])[:_LONGEST] for at in order[:12] if fit[family, at]]
        name = ", ".join(telling[:_WORDS]) or f"family {family + 1}"
        for more in telling[_WORDS:]:
            if name not in taken:
                break
            name = f"{name}, {more}"
        if name in taken:
            name = f"{name} ({family + 1})"
        taken.add(name)
        names.append(name)
    return tuple(names)
