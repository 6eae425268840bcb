"""An outcome table as it comes: several sources, other models in each, cells missing.

A model is a candidate for a prompt when the table has its score and its cost there; unknown money
is not zero money. Prompts with the same candidates form a pool, and figures are computed pool by
pool: only there is "the best fixed model" one thing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from xrouter_lg.errors import PoolError
from xrouter_lg.judge.table import KEY, Bools, Floats, Ints, Paired
from xrouter_lg.pool.pool import normalise_name


@dataclass(frozen=True)
class Pool:
    """Prompts that have the same candidates."""

    models: tuple[str, ...]
    rows: Ints
    """Rows of the table."""


def fingerprint_of(tables: Sequence[Paired]) -> str:
    """Which tables these are, one for each pool: a single table's own fingerprint, or a digest of
    those of several."""
    found = [table.fingerprint() for table in tables]
    if len(found) == 1:
        return found[0]
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Ragged:
    """N prompts × M models with holes."""

    keys: tuple[tuple[str, str, str], ...]
    """(source, task, prompt_id), rising."""
    prompts: tuple[str, ...]
    families: tuple[str, ...]
    """`source|task|category`."""
    models: tuple[str, ...]
    """As the table names them, after renaming; only those that were asked for."""
    cards: tuple[str, ...]
    """The same as names of cards."""
    score: Floats
    """[N, M], NaN where the model is no candidate."""
    cost: Floats
    """[N, M] USD, NaN where the model is no candidate."""
    strangers: Mapping[str, int]
    """Outcomes by model that nobody asked for: they are nobody's candidates."""
    unpriced: Mapping[str, int]
    """Outcomes by model whose score or cost is unknown: no candidate there."""
    bare: int
    """Prompts without any candidate, left out."""
    elsewhere: Mapping[str, int] = field(default_factory=dict)
    """Outcomes by model on prompts of a pool that it is not in: no candidate there."""

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def prompt_ids(self) -> tuple[str, ...]:
        return tuple("|".join(key) for key in self.keys)

    @property
    def candidates(self) -> Bools:
        """[N, M]"""
        known: Bools = np.isfinite(self.score)
        return known

    def rows(self, index: Ints | Bools) -> Ragged:
        """The chosen prompts, in the order of `index`."""
        at = np.flatnonzero(index) if index.dtype == np.bool_ else index
        return Ragged(
            tuple(self.keys[i] for i in at),
            tuple(self.prompts[i] for i in at),
            tuple(self.families[i] for i in at),
            self.models,
            self.cards,
            self.score[at],
            self.cost[at],
            self.strangers,
            self.unpriced,
            self.bare,
            self.elsewhere,
        )

    def within(self, cards: Mapping[str, Collection[str]]) -> Ragged:
        """The same with these cards as the only candidates of each source named; sources that are
        not named stay as they are."""
        if not cards:
            return self
        apart = np.zeros_like(self.candidates)
        for source, own in cards.items():
            rows = np.array([key[0] == source for key in self.keys])
            apart[np.ix_(rows, np.array([card not in own for card in self.cards]))] = True
        lost = (apart & self.candidates).sum(0).tolist()
        table = replace(
            self,
            score=np.where(apart, np.nan, self.score),
            cost=np.where(apart, np.nan, self.cost),
            elsewhere={name: n for name, n in zip(self.models, lost, strict=True) if n},
        )
        there = np.asarray(table.candidates.any(axis=1))
        return replace(table.rows(there), bare=self.bare + int((~there).sum()))

    def pools(self) -> list[Pool]:
        """Prompts grouped by their candidates, the largest group first."""
        patterns, group = np.unique(self.candidates, axis=0, return_inverse=True)
        group = group.ravel()
        found = [
            Pool(
                tuple(name for name, there in zip(self.models, pattern, strict=True) if there),
                np.flatnonzero(group == number),
            )
            for number, pattern in enumerate(patterns)
        ]
        return sorted(found, key=lambda pool: (-len(pool.rows), pool.models))

    def of_pool(self, models: Sequence[str]) -> Paired | None:
        """The complete matrix of the prompts whose candidates are exactly `models`."""
        for pool in self.pools():
            if set(pool.models) == set(models):
                return self.paired(models, pool.rows)
        return None

    def paired(self, models: Sequence[str], rows: Ints | None = None) -> Paired | None:
        """The complete matrix of `models` on those of `rows` where none is missing; None if no
        prompt is left or a model has no outcome at all."""
        if any(name not in self.models for name in models):
            return None
        columns = np.array([self.models.index(name) for name in models], dtype=np.int64)
        whole = np.arange(len(self)) if rows is None else rows
        at = whole[np.isfinite(self.score[np.ix_(whole, columns)]).all(1)]
        if not len(at) or not len(columns):
            return None
        ids = self.prompt_ids
        return Paired(
            tuple(ids[i] for i in at),
            tuple(self.prompts[i] for i in at),
            tuple(self.families[i] for i in at),
            tuple(models),
            self.score[np.ix_(at, columns)],
            self.cost[np.ix_(at, columns)],
        )


def read_ragged(
    outcomes: str | Path,
    prompts: str | Path,
    *,
    cards: Sequence[str],
    sources: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
) -> Ragged:
    """Read an outcome table for the cards of a checkpoint.

    A model of the table belongs to the card of its normalised name, after `rename`. `models` keeps
    only some of them. Rows come out sorted by key, models by name.

    Raises:
        ValueError: columns missing, a prompt without text or with two texts, two outcomes of one
            prompt and card, a score outside [0, 1], a negative cost, or nothing left.
    """
    table = _columns(outcomes, (*KEY, "model", "score", "cost_usd"))
    texts = _columns(prompts, (*KEY, "prompt"), optional=("category",))
    if sources is not None:
        table = table.filter(pl.col("source").is_in(list(sources)))
        texts = texts.filter(pl.col("source").is_in(list(sources)))
    if rename:
        table = table.with_columns(pl.col("model").replace(dict(rename)))
    rows, text = table.collect(), texts.collect()
    if not rows.height:
        raise ValueError(f"{outcomes} has no outcome of sources {sources!r}")
    _check_values(rows, outcomes)
    if text.select(KEY).is_duplicated().any():
        raise ValueError(f"{prompts} has two texts for one (source, task, prompt_id)")
    card_of = _cards(rows["model"].unique().to_list(), cards, models)
    if not card_of:
        raise ValueError(
            f"none of the models in {outcomes} is a card of this checkpoint "
            f"({', '.join(sorted(cards))}); map names with --rename TABLE=CARD"
        )
    wanted = rows.filter(pl.col("model").is_in(list(card_of)))
    blank = pl.col("score").is_null() | pl.col("cost_usd").is_null()
    known = wanted.filter(~blank).with_columns(card=pl.col("model").replace_strict(card_of))
    if known.select(*KEY, "card").is_duplicated().any():
        raise ValueError(
            f"{outcomes} has two outcomes of one card for one prompt: duplicates, or two models "
            "that are renamed to one"
        )
    every = rows.select(KEY).unique()
    keyed = known.select(KEY).unique().join(text, on=KEY, how="left").sort(KEY)
    if lost := keyed["prompt"].null_count():
        raise ValueError(f"{lost} prompts of {outcomes} have no text in {prompts}")
    names = {card: name for name, card in sorted(card_of.items(), reverse=True)}
    order = sorted(names, key=lambda card: names[card])
    number = {card: m for m, card in enumerate(order)}
    at = known.join(keyed.select(KEY).with_row_index("row"), on=KEY)
    i, j = at["row"].to_numpy(), at["card"].replace_strict(number).to_numpy()
    score = np.full((keyed.height, len(order)), np.nan)
    cost = score.copy()
    score[i, j], cost[i, j] = at["score"].to_numpy(), at["cost_usd"].to_numpy()
    return Ragged(
        tuple(keyed.select(KEY).iter_rows()),
        tuple(keyed["prompt"]),
        tuple(
            keyed.select(
                pl.concat_str(["source", "task", "category"], separator="|", ignore_nulls=True)
            ).to_series()
        ),
        tuple(names[card] for card in order),
        tuple(order),
        score,
        cost,
        _counts(rows.filter(~pl.col("model").is_in(list(card_of)))),
        _counts(wanted.filter(blank)),
        every.height - keyed.height,
    )


def _columns(path: str | Path, needed: Sequence[str], optional: Sequence[str] = ()) -> pl.LazyFrame:
    try:
        frame = pl.scan_parquet(path)
        have = frame.collect_schema().names()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ValueError(f"{path} can't be read as Parquet: {error}") from error
    if absent := [name for name in needed if name not in have]:
        raise ValueError(f"{path} lacks the columns {', '.join(absent)}")
    extra = [
        pl.col(name) if name in have else pl.lit(None, pl.String).alias(name) for name in optional
    ]
    return frame.with_columns(pl.col(KEY).cast(pl.String)).select(*needed, *extra)


def _check_values(rows: pl.DataFrame, path: str | Path) -> None:
    for name, low, high in (("score", 0.0, 1.0), ("cost_usd", 0.0, np.inf)):
        bad = rows.filter(
            pl.col(name).is_not_null() & ~pl.col(name).is_between(low, high)
            | pl.col(name).cast(pl.Float64).is_nan()
            | pl.col(name).cast(pl.Float64).is_infinite()
        )
        if bad.height:
            first = bad.row(0, named=True)
            where = "|".join(str(first[part]) for part in KEY)
            raise ValueError(
                f"{path}: {name} is {first[name]!r} for {first['model']!r} on {where}; it must lie "
                f"in [{low:g}, {high:g}]"
            )


def _cards(
    names: Sequence[str], cards: Sequence[str], models: Sequence[str] | None
) -> dict[str, str]:
    """The card of each model of the table that has one."""
    wanted = None if models is None else {_normal(name) for name in models}
    if wanted is not None and (strange := sorted(str(w) for w in wanted - set(cards))):
        raise ValueError(f"--models names {strange[0]!r}, which is no card of this checkpoint")
    found = {}
    for name in names:
        card = _normal(name)
        if card in cards and (wanted is None or card in wanted):
            found[name] = str(card)
    return found


def _normal(name: str) -> str | None:
    try:
        return normalise_name(name)
    except PoolError:
        return None


def _counts(rows: pl.DataFrame) -> dict[str, int]:
    counted = rows.group_by("model").len().sort("model")
    return dict(zip(counted["model"].to_list(), counted["len"].to_list(), strict=True))
