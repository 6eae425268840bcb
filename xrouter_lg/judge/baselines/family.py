"""Recognise the kind of task and go by what is known of that kind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.curve import Predictions
from xrouter_lg.judge.baselines.base import Means
from xrouter_lg.outcomes.grid import OutcomeGrid


@dataclass(frozen=True)
class FittedFamily:
    means: Means
    classifier: Pipeline | None
    """None when the train half had a single family: there is nothing to predict."""

    def probabilities(self, prompts: Sequence[str]) -> Floats:
        """[N, G] of each known family."""
        if self.classifier is None:
            return np.ones((len(prompts), 1))
        # The classifier sorts its classes as Means sorts its groups: both by name.
        return np.asarray(self.classifier.predict_proba(list(prompts)), dtype=np.float64)

    def predict(self, prompts: Sequence[str], families: Sequence[str] | None = None) -> Predictions:
        p = self.probabilities(prompts)
        return Predictions(p @ self.means.quality[:-1], p @ self.means.cost[:-1])


@dataclass(frozen=True)
class PredictedFamily:
    """Logistic regression over words and pairs gives P(family); per-family means are mixed.

    Mixing instead of taking the likeliest family costs nothing when the text is clear and falls
    back to the right blend when two families look alike.
    """

    strength: float = 3.0
    inverse_regularisation: float = 30.0
    name: str = "predicted family"

    def fit(self, train: OutcomeGrid) -> FittedFamily:
        means = Means.of(train, train.families, strength=self.strength)
        if len(means.groups) == 1:
            return FittedFamily(means, None)
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
        head = LogisticRegression(C=self.inverse_regularisation, max_iter=200, tol=1e-3)
        return FittedFamily(means, make_pipeline(words, head).fit(train.prompts, train.families))


@dataclass(frozen=True)
class FittedLabel:
    means: Means

    def predict(self, prompts: Sequence[str], families: Sequence[str] | None = None) -> Predictions:
        if families is None:
            raise ValueError("the told-label bound needs the families of the prompts")
        at = self.means.index(families)
        return Predictions(self.means.quality[at], self.means.cost[at])


@dataclass(frozen=True)
class ToldLabel:
    """Per-family means for a router that is told the family: bounds "recognise the task"."""

    strength: float = 3.0
    name: str = "told the label"

    def fit(self, train: OutcomeGrid) -> FittedLabel:
        return FittedLabel(Means.of(train, train.families, strength=self.strength))
