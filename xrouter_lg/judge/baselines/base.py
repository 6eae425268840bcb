"""The one interface of a learned baseline: fit on a train table, predict score and cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from xrouter_lg.figures.curve import Predictions
from xrouter_lg.judge.table import Floats, Ints, Paired


class Fitted(Protocol):
    """What an estimator learned. Only the told-label bound may look at `families`."""

    def predict(
        self, prompts: Sequence[str], families: Sequence[str] | None = None
    ) -> Predictions: ...


class Estimator(Protocol):
    @property
    def name(self) -> str: ...

    def fit(self, train: Paired) -> Fitted: ...


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
    def of(cls, train: Paired, groups: Sequence[str], *, strength: float) -> Means:
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


def group_means(values_N_M: Floats, groups: Sequence[str], *, strength: float) -> Floats:
    """[G, M] mean per group in the order of the sorted names, shrunk towards the overall mean as
    :class:`Means` says. NaN is no outcome: it counts neither here nor there."""
    names = sorted(set(groups))
    member = np.array(groups)[None, :] == np.array(names)[:, None]
    known = np.isfinite(values_N_M)
    count = member @ known.astype(float)
    overall = np.nanmean(values_N_M, axis=0)
    own = (member @ np.where(known, values_N_M, 0.0)) / np.maximum(count, 1.0)
    shrunk: Floats = overall + count / (count + strength) * (own - overall)
    return shrunk
