"""k nearest neighbours in TF-IDF space, shrunk towards each model's mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import TfidfVectorizer

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.curve import Predictions
from xrouter_lg.outcomes.grid import OutcomeGrid

_ROWS = 512
"""Prompts compared with the whole train half at a time, so memory stays bounded."""


@dataclass(frozen=True)
class FittedNeighbours:
    vectorizer: TfidfVectorizer
    vectors: csr_matrix
    train: OutcomeGrid
    k: int
    weight: float

    def predict(self, prompts: Sequence[str], families: Sequence[str] | None = None) -> Predictions:
        near = self.neighbours(prompts)
        return Predictions(self._mixed(self.train.score, near), self._mixed(self.train.cost, near))

    def neighbours(self, prompts: Sequence[str]) -> Floats:
        """[N, k] indices into the train half, in no order."""
        vectors = self.vectorizer.transform(prompts)
        found = []
        for start in range(0, len(prompts), _ROWS):
            near = (vectors[start : start + _ROWS] @ self.vectors.T).toarray()
            if self.k >= near.shape[1]:
                found.append(np.tile(np.arange(near.shape[1]), (len(near), 1)))
            else:
                found.append(np.argpartition(-near, self.k - 1, axis=1)[:, : self.k])
        return np.concatenate(found)

    def _mixed(self, values: Floats, near: Floats) -> Floats:
        mixed: Floats = self.weight * values[near].mean(1) + (1 - self.weight) * values.mean(0)
        return mixed


@dataclass(frozen=True)
class Neighbours:
    """Mean of the k most similar train prompts by cosine, `weight` of it, the rest prior.

    Unshrunk, 150 outcomes per model carry a standard error of about 0.03, more than most models
    differ by: the choice would follow the noise.
    """

    k: int = 150
    weight: float = 0.6
    name: str = "kNN"

    def fit(self, train: OutcomeGrid) -> FittedNeighbours:
        vectorizer = TfidfVectorizer(sublinear_tf=True)
        vectors = csr_matrix(vectorizer.fit_transform(train.prompts))
        return FittedNeighbours(vectorizer, vectors, train, self.k, self.weight)
