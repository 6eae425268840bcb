"""Outcomes of several pools in one table: each source has its own models, one policy serves all.

A pool is a group of sources that share their candidates: the models with a known score and cost on
every prompt of the group. A model of two pools is one card. Where a model is no candidate for a
prompt the table holds NaN, and nothing is learned, measured or decided there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xrouter_lg.judge.ragged import fingerprint_of
from xrouter_lg.judge.table import Bools, Floats, Ints, Paired
from xrouter_lg.prompts import slots


@dataclass(frozen=True)
class SourcePool:
    """Sources whose prompts have the same candidates."""

    sources: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True)
class PoolTable:
    """N prompts × M models, pool after pool."""

    prompt_ids: tuple[str, ...]
    prompts: tuple[str, ...]
    families: tuple[str, ...]
    models: tuple[str, ...]
    """Those of the first pool, then what each later one has that no earlier one had."""
    score: Floats
    """[N, M], NaN where the model is no candidate."""
    cost: Floats
    """[N, M] USD, NaN where the model is no candidate."""
    pool_N: Ints
    """Which pool each prompt belongs to."""
    pools: tuple[SourcePool, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def rows(self, index: Ints | Bools) -> PoolTable:
        """The same models on the chosen prompts, in the order of `index`."""
        at = np.flatnonzero(index) if index.dtype == np.bool_ else index
        return replace(
            self,
            prompt_ids=tuple(self.prompt_ids[i] for i in at),
            prompts=tuple(self.prompts[i] for i in at),
            families=tuple(self.families[i] for i in at),
            score=self.score[at],
            cost=self.cost[at],
            pool_N=self.pool_N[at],
        )

    def columns(self, pool: int) -> Ints:
        """Columns of a pool's models, in the pool's order."""
        return np.array([self.models.index(m) for m in self.pools[pool].models], dtype=np.int64)

    def of_pool(self, pool: int) -> Paired:
        """The complete matrix of one pool.

        Raises:
            ValueError: no prompt of it is in the table.
        """
        at, columns = np.flatnonzero(self.pool_N == pool), self.columns(pool)
        return Paired(
            tuple(self.prompt_ids[i] for i in at),
            tuple(self.prompts[i] for i in at),
            tuple(self.families[i] for i in at),
            self.pools[pool].models,
            self.score[np.ix_(at, columns)],
            self.cost[np.ix_(at, columns)],
        )

    def parts(self) -> list[Paired]:
        """Every pool's complete matrix."""
        return [self.of_pool(pool) for pool in range(len(self.pools))]

    def fingerprint(self) -> str:
        """Which table this is, as the judge computes it from the manifest's pools."""
        return fingerprint_of(self.parts())

    def reference_cost(self) -> float:
        """c_ref: the mean over the pools, weighted by their prompts, of what each one's own best
        fixed model costs. One unit for all: λ means the same money whatever the pool."""
        parts = self.parts()
        return sum(len(part) * part.reference_cost() for part in parts) / len(self)


Table = Paired | PoolTable


def read_pools(
    groups: Sequence[Sequence[str]],
    read: Callable[[Sequence[str]], Paired],
    models: Sequence[str] = (),
) -> PoolTable:
    """The table of several groups of sources, each as `read` gives it: complete for the models that
    cover it. `models` keeps only some of them.

    Raises:
        ValueError: a group without a model, or what `read` raises.
    """
    pools, parts = [], []
    for group in groups:
        table = read(group)
        kept = [m for m, name in enumerate(table.models) if not models or name in models]
        names = tuple(table.models[m] for m in kept)
        if not names:
            raise ValueError(
                f"none of data.models covers every prompt of {', '.join(group)} at a known cost"
            )
        pools.append(SourcePool(tuple(group), names))
        parts.append(
            replace(table, models=names, score=table.score[:, kept], cost=table.cost[:, kept])
        )
    union = tuple(dict.fromkeys(name for pool in pools for name in pool.models))
    if lost := sorted(set(models) - set(union)):
        raise ValueError(f"no source is covered by {', '.join(lost)} of data.models")
    size = sum(map(len, parts))
    score, cost = np.full((size, len(union)), np.nan), np.full((size, len(union)), np.nan)
    start = 0
    for part in parts:
        cells = np.ix_(range(start, start + len(part)), [union.index(m) for m in part.models])
        score[cells], cost[cells] = part.score, part.cost
        start += len(part)
    return PoolTable(
        tuple(name for part in parts for name in part.prompt_ids),
        tuple(text for part in parts for text in part.prompts),
        tuple(family for part in parts for family in part.families),
        union,
        score,
        cost,
        np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
        tuple(pools),
    )


@dataclass(frozen=True)
class Cut:
    """How the cards of a table are cut into blocks of a prompt, and who reads which."""

    sizes: tuple[int, ...]
    """Cards of each block, in the order of the table's models."""
    home: tuple[int, ...]
    """The pool that brought each block in."""
    read_N_K: Bools
    """[N, K] whether a prompt is read behind a block: one of its candidates is in it."""

    def cards(self, block: int) -> slice:
        """Columns of a block's cards."""
        start = sum(self.sizes[:block])
        return slice(start, start + self.sizes[block])


def cut_of(table: Table) -> Cut:
    """One block for a complete table. Else what a pool adds to those before it is blocks of its
    own, of up to 16 cards."""
    if isinstance(table, Paired):
        every = np.ones((len(table), 1), dtype=np.bool_)
        return Cut((len(table.models),), (0,), every)
    sizes: list[int] = []
    home: list[int] = []
    known: set[str] = set()
    for number, pool in enumerate(table.pools):
        fresh = sum(name not in known for name in pool.models)
        known.update(pool.models)
        while fresh > 0:
            sizes.append(min(fresh, len(slots.CARD_SLOTS)))
            home.append(number)
            fresh -= sizes[-1]
    there = np.isfinite(table.score)
    edges = np.cumsum([0, *sizes])
    read = [there[:, a:b].any(1) for a, b in itertools.pairwise(edges)]
    return Cut(tuple(sizes), tuple(home), np.stack(read, axis=1))
