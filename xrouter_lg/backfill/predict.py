"""Expected scores of every card: similar prompts, then the family, then the card's mean.

The learned baselines of the judge need a complete matrix. What a backfill starts from is mostly
one outcome a prompt, so each card is estimated from the cells that it has. A prompt's own scores
never count for it: prompts chosen by their own outcome (where the chosen card failed, say) are a
skewed sample even among prompts that look alike, and nothing learned from them could be trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xrouter_lg.arrays import Bools, Floats, Ints, most_alike

_NEAR = 50
"""Neighbours that count."""
_AT_MOST = 4_000
"""Known prompts that neighbours are looked for among: time and memory grow with them."""
_AT_LEAST = 20
"""Known prompts below which texts are not compared."""
_CHUNK = 256
_CARD_PRIOR = 2.0
"""How many outcomes at 0.5 a card starts from, and so on down: a family starts from three at its
card's mean, a prompt from three at its family's."""
_FAMILY_PRIOR = 3.0
_PROMPT_PRIOR = 3.0
_TOPIC_SIZE = 60
_TOPICS = 40


def vectors(prompts: Sequence[str]) -> Any:
    """[N, V] TF-IDF, rows of length one; None where the texts have no word in common use."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True, max_features=50_000, dtype=np.float32)
    try:
        return words.fit_transform(prompts)
    except ValueError:  # only stop characters
        return None


def groups_of(families: Sequence[str], texts: Any, *, seed: int) -> Ints:
    """[N] number of each prompt's family. Where all prompts carry one label, as unlabelled
    traces do, texts are clustered into topics instead."""
    names, group = np.unique(np.array(families), return_inverse=True)
    if len(names) > 1 or texts is None or len(families) < 2 * _TOPIC_SIZE:
        return group.astype(np.int64)
    from sklearn.cluster import MiniBatchKMeans

    count = min(_TOPICS, len(families) // _TOPIC_SIZE)
    topics = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=2048)
    return np.asarray(topics.fit_predict(texts), dtype=np.int64)


def expected_scores(score: Floats, group: Ints, texts: Any, *, seed: int) -> Floats:
    """[N, M] expectations in [0, 1] from the *other* prompts' known scores.

    Args:
        score: [N, M] with NaN where unknown.
        group: [N] family of each prompt.
        texts: [N, V] from :func:`vectors`, None to go by families alone.
    """
    there = np.isfinite(score)
    filled = np.where(there, score, 0.0)
    card = (filled.sum(0) + 0.5 * _CARD_PRIOR) / (there.sum(0) + _CARD_PRIOR)
    size = int(group.max()) + 1
    total, count = np.zeros((size, score.shape[1])), np.zeros((size, score.shape[1]))
    np.add.at(total, group, filled)
    np.add.at(count, group, there)
    others = total[group] - filled
    expected: Floats = (others + _FAMILY_PRIOR * card) / (count[group] - there + _FAMILY_PRIOR)
    some = np.flatnonzero(there.any(1))
    if texts is None or len(some) < _AT_LEAST:
        return expected
    if len(some) > _AT_MOST:
        some = np.sort(np.random.default_rng(seed).choice(some, _AT_MOST, replace=False))
    return _from_neighbours(expected, filled, there, texts, some)


def _from_neighbours(prior: Floats, filled: Floats, there: Bools, texts: Any, some: Ints) -> Floats:
    """Similarity-weighted means over the nearest known prompts, shrunk towards ``prior``."""
    n = len(prior)
    mixed = np.empty_like(prior)
    known_T = texts[some].T.tocsc()
    column = np.full(n, -1)
    column[some] = np.arange(len(some))
    near = min(_NEAR, len(some))
    for start in range(0, n, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, n))
        likeness = (texts[rows] @ known_T).toarray()
        own = column[rows]
        likeness[np.flatnonzero(own >= 0), own[own >= 0]] = 0.0  # a prompt is not its own neighbour
        at = most_alike(likeness, near)
        weight = np.take_along_axis(likeness, at, 1)[:, :, None] * there[some[at]]
        total = (weight * filled[some[at]]).sum(1) + _PROMPT_PRIOR * prior[rows]
        mixed[rows] = total / (weight.sum(1) + _PROMPT_PRIOR)
    return mixed
