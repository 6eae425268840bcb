"""The one interface of a learned baseline: fit on a train table, predict score and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.figures.curve import Predictions
from xrouter_lg.fitting.family_means import group_means
from xrouter_lg.outcomes.grid import OutcomeGrid


class Fitted(Protocol):
    """What an estimator learned. Only the told-label bound may look at `families`."""

    def predict(
        self, prompts: Sequence[str], families: Sequence[str] | None = None
    ) -> Predictions: ...


class Estimator(Protocol):
    @property
    def name(self) -> str: ...

    def fit(self, train: OutcomeGrid) -> Fitted: ...


@dataclass(frozen=True)
class Means:
    """Mean score and cost per model and group, shrunk towards the means over everything.

    A group of n prompts counts n / (n + strength): the mean of a normal prior worth `strength`
    prompts. Unseen groups get the overall means.
    """

    groups: tuple[str, ...]
    quality: Floats
    """[G + 1, M]; the last row is the overall mean."""
    cost: Floats

    @classmethod
    def of(cls, train: OutcomeGrid, groups: Sequence[str], *, strength: float) -> Means:
        names = tuple(sorted(set(groups)))
        shrunk = [
            np.vstack([group_means(values, groups, strength=strength), values.mean(0)])
            for values in (train.score, train.cost)
        ]
        return cls(names, shrunk[0], shrunk[1])

    def index(self, groups: Sequence[str]) -> Ints:
        """Rows of the groups, the last row for those never seen."""
        at = {name: i for i, name in enumerate(self.groups)}
        return np.array([at.get(g, len(self.groups)) for g in groups], dtype=np.int64)
