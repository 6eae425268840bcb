"""Learned baselines: each is fitted on a train table and says what it expects of other prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xrouter_lg.arrays import Floats, most_alike
from xrouter_lg.figures.curve import Predictions
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.value.means import STRENGTH, group_means

_ROWS = 512
"""Prompts compared with the whole train half at a time, so memory stays bounded."""


class Estimator(Protocol):
    """Only the told-label bound may look at `families`, the prompts' own."""

    def __call__(
        self, train: OutcomeGrid, prompts: Sequence[str], families: Sequence[str] | None = None, /
    ) -> Predictions: ...


def knn(
    train: OutcomeGrid,
    prompts: Sequence[str],
    families: Sequence[str] | None = None,
    *,
    k: int = 150,
    weight: float = 0.6,
) -> Predictions:
    """Mean of the k most similar train prompts by cosine of TF-IDF, `weight` of it, the rest prior.

    Unshrunk, 150 outcomes per model carry a standard error of about 0.03, more than most models
    differ by: the choice would follow the noise.
    """
    words = TfidfVectorizer(sublinear_tf=True)
    known = words.fit_transform(train.prompts)
    vectors = words.transform(prompts)
    parts = []
    for start in range(0, len(prompts), _ROWS):
        alike = (vectors[start : start + _ROWS] @ known.T).toarray()
        if k >= len(train):
            parts.append(np.tile(np.arange(len(train)), (len(alike), 1)))
        else:
            parts.append(most_alike(alike, k))
    near = np.concatenate(parts)

    def mixed(values: Floats) -> Floats:
        found: Floats = weight * values[near].mean(1) + (1 - weight) * values.mean(0)
        return found

    return Predictions(mixed(train.score), mixed(train.cost))


def linear_head(
    train: OutcomeGrid, prompts: Sequence[str], families: Sequence[str] | None = None
) -> Predictions:
    """Least squares with a strong ridge from compressed TF-IDF to every model's score."""
    learned, asked = _features(train, prompts, width=100)
    quality = Ridge(1000.0).fit(learned, train.score).predict(asked)
    return Predictions(np.clip(quality, 0.0, 1.0), _costs(train, learned, asked))


def logistic_head(
    train: OutcomeGrid,
    prompts: Sequence[str],
    families: Sequence[str] | None = None,
    *,
    width: int = 100,
) -> Predictions:
    """A logistic regression per model on compressed TF-IDF; a score of 0.3 counts as 0.3 of a
    success. A model that always or never succeeds needs none."""
    learned, asked = _features(train, prompts, width=width)
    quality = np.empty((len(prompts), len(train.models)))
    for m, s in enumerate(train.score.T):
        if s.min() == s.max():
            quality[:, m] = s[0]
            continue
        head = LogisticRegression(C=0.01, max_iter=200)
        y = np.repeat([1, 0], len(s))
        head.fit(np.vstack([learned, learned]), y, np.concatenate([s, 1 - s]))
        quality[:, m] = head.predict_proba(asked)[:, 1]
    return Predictions(quality, _costs(train, learned, asked))


def predicted_family(
    train: OutcomeGrid, prompts: Sequence[str], families: Sequence[str] | None = None
) -> Predictions:
    """Logistic regression over words and pairs gives P(family); per-family means are mixed.

    Mixing instead of taking the likeliest family costs nothing when the text is clear and falls
    back to the right blend when two families look alike.
    """
    quality, cost = (
        group_means(values, train.families, strength=STRENGTH)
        for values in (train.score, train.cost)
    )
    # Of a single family there is nothing to predict.
    p = np.ones((len(prompts), 1))
    if len(quality) > 1:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        model = make_pipeline(words, LogisticRegression(C=30.0, max_iter=200, tol=1e-3))
        # The classifier sorts its classes as `group_means` sorts its groups: both by name.
        p = model.fit(train.prompts, train.families).predict_proba(list(prompts))
    return Predictions(p @ quality, p @ cost)


def told_label(
    train: OutcomeGrid,
    prompts: Sequence[str],
    families: Sequence[str] | None = None,
    *,
    strength: float = STRENGTH,
) -> Predictions:
    """Per-family means for a router that is told the family: bounds "recognise the task". A family
    that was never seen gets the means over everything."""
    if families is None:
        raise ValueError("the told-label bound needs the families of the prompts")
    row = {name: g for g, name in enumerate(sorted(set(train.families)))}
    at = [row.get(name, -1) for name in families]
    quality, cost = (
        np.vstack([group_means(values, train.families, strength=strength), values.mean(0)])[at]
        for values in (train.score, train.cost)
    )
    return Predictions(quality, cost)


LEARNED: Mapping[str, Estimator] = {
    "kNN": knn,
    "linear head": linear_head,
    "logistic head": logistic_head,
    "predicted family": predicted_family,
    "told the label": told_label,
}
"""The learned baselines of every report, strongest last but for the bound."""


def _features(train: OutcomeGrid, prompts: Sequence[str], *, width: int) -> tuple[Floats, Floats]:
    """Compressed TF-IDF of the train prompts and of others."""
    words = TfidfVectorizer(sublinear_tf=True)
    raw = words.fit_transform(train.prompts)
    # SVD can't have more components than the data has dimensions.
    size = max(1, min(width, raw.shape[0] - 1, raw.shape[1] - 1))
    pipe = make_pipeline(words, TruncatedSVD(size, random_state=0), StandardScaler())
    return pipe.fit_transform(train.prompts), pipe.transform(list(prompts))


def _costs(train: OutcomeGrid, learned: Floats, asked: Floats) -> Floats:
    """Linear, but never below the smallest cost seen: it must not promise a free call."""
    cost: Floats = np.maximum(
        Ridge(10.0).fit(learned, train.cost).predict(asked), train.cost.min(0)
    )
    return cost
