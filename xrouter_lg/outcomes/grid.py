"""The outcome grid: prompts × models with holes, what every figure and every fit is computed on.

A model is a candidate for a prompt where the grid has its score and its cost; unknown money is not
zero money. Prompts with the same candidates form a pool, and figures are computed pool by pool:
only there is "the best fixed model" one thing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.errors import PoolError
from xrouter_lg.outcomes.schema import OutcomeError
from xrouter_lg.pool.card import normalise_name

Column = npt.NDArray[Any]

FREE_UNIT_USD = 0.001
"""The unit of a cost weight where no model costs anything: about what a request to a small hosted
model costs, so that the weight means something once a paid one joins."""


@dataclass(frozen=True)
class Pool:
    """Prompts that have the same candidates."""

    sources: tuple[str, ...]
    models: tuple[str, ...]
    rows: Ints
    """Rows of the grid."""


@dataclass(frozen=True)
class Omitted:
    """What a table holds that is in no cell of the grid."""

    strangers: Mapping[str, int] = field(default_factory=dict)
    """Outcomes by model that nobody asked for: they are nobody's candidates."""
    unpriced: Mapping[str, int] = field(default_factory=dict)
    """Outcomes by model whose score or cost is unknown: no candidate there."""
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    """Outcomes by model on prompts of a pool that it is not in: no candidate there."""
    bare: int = 0
    """Prompts without any candidate, left out."""


@dataclass(frozen=True)
class OutcomeGrid:
    """N prompts × M models.

    Raises:
        OutcomeError: shapes that differ, names that are not unique, or impossible values.
    """

    keys: tuple[tuple[str, ...], ...]
    """Unique; (source, task, prompt_id) when read from files."""
    prompts: tuple[str, ...]
    families: tuple[str, ...]
    """The kind of task, `source|task|category`: what leave-families-out holds out."""
    models: tuple[str, ...]
    """As the table names them."""
    score: Floats
    """[N, M], 0 to 1; NaN where the model is no candidate."""
    cost: Floats
    """[N, M], USD per request; NaN where the model is no candidate."""
    cards: tuple[str, ...] = ()
    """The models as names of cards; left out: normalised."""
    more: Mapping[str, Column] = field(default_factory=dict)
    """[N, M] further columns of the outcomes, of all cells: NaN, False or None where there is
    nothing."""
    about: Mapping[str, Column] = field(default_factory=dict)
    """[N] further columns of the prompts; None where there is nothing."""
    declared: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = ()
    """Sources and models of each pool, where a run says which they are."""
    omitted: Omitted = Omitted()

    def __post_init__(self) -> None:
        n, m = shape = len(self.keys), len(self.models)
        if not self.cards:
            object.__setattr__(self, "cards", tuple(map(card_name, self.models)))
        if len(self.prompts) != n or len(self.families) != n or len(self.cards) != m:
            raise OutcomeError(
                f"{n} keys and {m} models, but {len(self.prompts)} prompts, {len(self.families)} "
                f"families and {len(self.cards)} cards"
            )
        if len(set(self.keys)) != n or len(set(self.models)) != m:
            raise OutcomeError("prompt keys and model names must be unique")
        for name, values in {"score": self.score, "cost": self.cost, **self.more}.items():
            if values.shape != shape:
                raise OutcomeError(f"{name} has shape {values.shape}, expected {shape}")
        if (self.score < 0).any() or (self.score > 1).any():
            raise OutcomeError("scores must lie in [0, 1]")
        if (self.cost < 0).any() or np.isinf(self.cost).any():
            raise OutcomeError("costs must be finite, and not negative")

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def prompt_ids(self) -> tuple[str, ...]:
        """`source|task|prompt_id` of each prompt."""
        return tuple("|".join(key) for key in self.keys)

    @cached_property
    def candidates(self) -> Bools:
        """[N, M]"""
        known: Bools = np.isfinite(self.score) & np.isfinite(self.cost)
        return known

    def within_sources(self, sources: Collection[str]) -> Bools:
        """[N] prompts of these sources."""
        return np.array([key[0] in sources for key in self.keys], dtype=np.bool_)

    def columns(self, models: Sequence[str]) -> Ints:
        """Columns of these models, in this order."""
        return np.array([self.models.index(name) for name in models], dtype=np.int64)

    def rows(self, index: Ints | Bools) -> OutcomeGrid:
        """The same models on the chosen prompts, in the order of `index`."""
        at = np.flatnonzero(index) if index.dtype == np.bool_ else index
        return replace(
            self,
            keys=tuple(self.keys[i] for i in at),
            prompts=tuple(self.prompts[i] for i in at),
            families=tuple(self.families[i] for i in at),
            score=self.score[at],
            cost=self.cost[at],
            more={name: values[at] for name, values in self.more.items()},
            about={name: values[at] for name, values in self.about.items()},
        )

    def of(self, models: Sequence[str]) -> OutcomeGrid:
        """The same prompts with these models, in this order; one that is not here has no outcome
        on any of them. Declared pools are those of the whole: the part has none."""
        here = [name for name in models if name in self.models]
        to, at = [list(models).index(name) for name in here], self.columns(here)

        def widened(values: Column) -> Column:
            empty: Any = {"b": False, "O": None}.get(values.dtype.kind, np.nan)
            kind = values.dtype if values.dtype.kind in "bO" else np.float64
            wide: Column = np.full((len(self), len(models)), empty, dtype=kind)
            wide[:, to] = values[:, at]
            return wide

        whole = len(here) == len(models)
        take: Callable[[Column], Column] = (lambda values: values[:, at]) if whole else widened
        card_of = dict(zip(self.models, self.cards, strict=True))
        return replace(
            self,
            models=tuple(models),
            cards=tuple(card_of.get(name, card_name(name)) for name in models),
            score=take(self.score),
            cost=take(self.cost),
            more={name: take(values) for name, values in self.more.items()},
            declared=(),
        )

    def joined(self, other: OutcomeGrid) -> OutcomeGrid:
        """These prompts and the other's, under the models of both; pools that either declares are
        declared of the whole."""
        union = tuple(dict.fromkeys((*self.models, *other.models)))
        one, two = self.of(union), other.of(union)
        return replace(
            one,
            keys=one.keys + two.keys,
            prompts=one.prompts + two.prompts,
            families=one.families + two.families,
            score=np.vstack([one.score, two.score]),
            cost=np.vstack([one.cost, two.cost]),
            more={k: np.vstack([one.more[k], two.more[k]]) for k in one.more if k in two.more},
            about={
                k: np.concatenate([one.about[k], two.about[k]]) for k in one.about if k in two.about
            },
            declared=self.declared + other.declared,
        )

    def within(self, cards: Mapping[str, Collection[str]]) -> OutcomeGrid:
        """The same with these cards as the only candidates of each source named; sources that are
        not named stay as they are."""
        if not cards:
            return self
        apart = np.zeros_like(self.candidates)
        for source, own in cards.items():
            strange = np.array([card not in own for card in self.cards], dtype=np.bool_)
            apart[np.ix_(self.within_sources([source]), strange)] = True
        lost = (apart & self.candidates).sum(0).tolist()
        grid = replace(
            self,
            score=np.where(apart, np.nan, self.score),
            cost=np.where(apart, np.nan, self.cost),
        )
        there: Bools = np.asarray(grid.candidates.any(1))
        omitted = replace(
            self.omitted,
            elsewhere={name: n for name, n in zip(self.models, lost, strict=True) if n},
            bare=self.omitted.bare + int((~there).sum()),
        )
        return replace(grid.rows(there), omitted=omitted)

    def complete(
        self, models: Sequence[str] | None = None, rows: Ints | None = None
    ) -> OutcomeGrid:
        """The part without holes: these models (left out: all) on those of `rows` (left out: all)
        where each of them has an outcome. It has no prompts where a model has none at all."""
        grid = self if models is None or tuple(models) == self.models else self.of(models)
        if rows is not None:
            grid = grid.rows(rows)
        whole: Bools = np.asarray(grid.candidates.all(1))
        return replace(grid if whole.all() else grid.rows(whole), declared=())

    def pools(self) -> list[Pool]:
        """Those declared; else prompts grouped by their candidates, the largest group first."""
        if self.declared:
            return [
                Pool(sources, models, np.flatnonzero(self.within_sources(sources)))
                for sources, models in self.declared
            ]
        patterns, group = np.unique(self.candidates, axis=0, return_inverse=True)
        group = group.ravel()
        found = []
        for number, pattern in enumerate(patterns):
            rows = np.flatnonzero(group == number)
            models = (name for name, there in zip(self.models, pattern, strict=True) if there)
            sources = sorted({self.keys[i][0] for i in rows})
            found.append(Pool(tuple(sources), tuple(models), rows))
        return sorted(found, key=lambda pool: (-len(pool.rows), pool.models))

    def parts(self) -> list[OutcomeGrid]:
        """Every pool's complete grid."""
        return [self.complete(pool.models, pool.rows) for pool in self.pools()]

    def of_pool(self, models: Collection[str]) -> OutcomeGrid:
        """The complete grid of the prompts whose candidates are exactly `models`."""
        own = [pool.rows for pool in self.pools() if set(pool.models) == set(models)]
        rows = np.concatenate(own) if own else np.zeros(0, dtype=np.int64)
        return self.complete(tuple(models), rows)

    def best_fixed(self) -> int:
        """The model with the highest mean score; among equals the cheaper."""
        grid = self._whole()
        return int(np.lexsort((grid.cost.mean(0), -grid.score.mean(0)))[0])

    def cheapest(self) -> int:
        """The model with the lowest mean cost; among equals the better."""
        grid = self._whole()
        return int(np.lexsort((-grid.score.mean(0), grid.cost.mean(0)))[0])

    def reference_cost(self) -> float:
        """c_ref: the unit that a cost weight is counted in (:func:`unit_usd`). Of several pools the
        mean, weighted by their prompts, of each one's own: λ means the same money whatever the
        pool."""
        if not self.declared:
            # Column by column: the sum over all at once would round otherwise.
            means = np.array([column.mean() for column in self._whole().cost.T])
            return unit_usd(means, self.best_fixed())
        return sum(len(part) * part.reference_cost() for part in self.parts()) / len(self)

    def fingerprint(self) -> str:
        """16 digits of a digest of prompts, models, scores and costs: which outcomes these are."""
        return fingerprint_of(self.parts())

    def _whole(self) -> OutcomeGrid:
        """Itself.

        Raises:
            OutcomeError: there is nothing to average, or it has holes.
        """
        if not len(self) or not self.models:
            raise OutcomeError(
                f"a figure needs prompts and models, got {len(self)} and {len(self.models)}"
            )
        if holes := int((~self.candidates).sum()):
            raise OutcomeError(
                f"{holes} of {self.score.size} outcomes are unknown: a figure over all models "
                "needs each of them on every prompt; take complete(), or one of parts()"
            )
        return self


def unit_usd(mean_usd_M: Floats, best: int) -> float:
    """What a cost weight counts in: mean USD of the best fixed model. Where that is free, of the
    cheapest model that is not; :data:`FREE_UNIT_USD` where all are."""
    if mean_usd_M[best] > 0:
        return float(mean_usd_M[best])
    paid = mean_usd_M[mean_usd_M > 0]
    return float(paid.min()) if len(paid) else FREE_UNIT_USD


def fingerprint_of(parts: Sequence[OutcomeGrid]) -> str:
    """Which complete grids these are, one for each pool: a single one's own digest, or a digest of
    those of several."""
    found = []
    for grid in parts:
        digest = hashlib.sha256(json.dumps([grid.prompt_ids, grid.models]).encode())
        digest.update(np.ascontiguousarray(grid.score).tobytes())
        digest.update(np.ascontiguousarray(grid.cost).tobytes())
        found.append(digest.hexdigest()[:16])
    return (
        found[0] if len(found) == 1 else hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]
    )


def card_name(model: str) -> str:
    """The card that a model's name stands for; the name itself where it can be no card's."""
    try:
        return normalise_name(model)
    except PoolError:
        return model
