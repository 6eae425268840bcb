"""One small head per model on compressed TF-IDF: the linear way to predict success per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.curve import Predictions
from xrouter_lg.outcomes.grid import OutcomeGrid


def _features(width: int, train: OutcomeGrid) -> tuple[Pipeline, Floats]:
    words = TfidfVectorizer(sublinear_tf=True)
    raw = words.fit_transform(train.prompts)
    # SVD can't have more components than the data has dimensions.
    size = max(1, min(width, raw.shape[0] - 1, raw.shape[1] - 1))
    pipe = make_pipeline(words, TruncatedSVD(size, random_state=0), StandardScaler())
    return pipe, np.asarray(pipe.fit_transform(train.prompts), dtype=np.float64)


@dataclass(frozen=True)
class FittedHeads:
    features: Pipeline
    quality: Sequence[LogisticRegression | float] | Ridge
    """Per model a classifier, or its constant score where it always or never succeeds; or one
    linear map to all models."""
    cost: Ridge
    floor: Floats
    """[M] smallest cost seen: a linear cost must not promise a free call."""

    def predict(self, prompts: Sequence[str], families: Sequence[str] | None = None) -> Predictions:
        x = np.asarray(self.features.transform(list(prompts)), dtype=np.float64)
        if isinstance(self.quality, Ridge):
            quality = np.clip(self.quality.predict(x), 0.0, 1.0)
        else:
            quality = np.stack([_probability(head, x) for head in self.quality], axis=1)
        return Predictions(quality, np.maximum(self.cost.predict(x), self.floor))


def _probability(head: LogisticRegression | float, x: Floats) -> Floats:
    if isinstance(head, float):
        return np.full(len(x), head)
    return np.asarray(head.predict_proba(x)[:, 1], dtype=np.float64)


@dataclass(frozen=True)
class LogisticHead:
    """A logistic regression per model; a score of 0.3 counts as 0.3 of a success."""

    width: int = 100
    inverse_regularisation: float = 0.01
    name: str = "logistic head"

    def fit(self, train: OutcomeGrid) -> FittedHeads:
        features, x = _features(self.width, train)
        heads: list[LogisticRegression | float] = []
        for s in train.score.T:
            if s.min() == s.max():
                heads.append(float(s[0]))
                continue
            head = LogisticRegression(C=self.inverse_regularisation, max_iter=200)
            y = np.repeat([1, 0], len(s))
            heads.append(head.fit(np.vstack([x, x]), y, np.concatenate([s, 1 - s])))
        return FittedHeads(features, heads, Ridge(10.0).fit(x, train.cost), train.cost.min(0))


@dataclass(frozen=True)
class LinearHead:
    """Least squares with a strong ridge from the same features to every model's score."""

    width: int = 100
    ridge: float = 1000.0
    name: str = "linear head"

    def fit(self, train: OutcomeGrid) -> FittedHeads:
        features, x = _features(self.width, train)
        return FittedHeads(
            features,
            Ridge(self.ridge).fit(x, train.score),
            Ridge(10.0).fit(x, train.cost),
            train.cost.min(0),
        )
