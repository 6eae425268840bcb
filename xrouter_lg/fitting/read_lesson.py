"""A lesson out of the folder of an outcome table: what `xrouter train` fits on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.lesson import Lesson
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.near import near_duplicates
from xrouter_lg.outcomes.split import random_split
from xrouter_lg.pool.pool import ModelPool

OUTCOMES, PROMPTS = "outcomes.parquet", "prompts.parquet"
LOGGED = ("propensity", "observed_at", "scored_by", "feedback", "served_model")
"""Columns of the outcomes that say how much they tell."""


@dataclass(frozen=True, kw_only=True)
class LessonSettings:
    """Which part of a table is learned from, and which is held out."""

    sources: tuple[str, ...] = ()
    """Sources to keep; all of them when empty."""
    models: tuple[str, ...] = ()
    """Models to keep, by their names in the table; those with a known outcome on every prompt when
    empty."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Names in the table that stand for another model of it, or for a card."""
    train_share: float = 0.9
    split_seed: int = 0
    pool: str = ""
    """A pool file, whose prices are recorded. Of a log, cards that left it are left out."""
    min_prompts: int = 100
    """Fewer training prompts than this are refused: what is learned from them is noise."""

    def public(self) -> dict[str, Any]:
        """As a manifest's ``config`` has it, without this machine's paths."""
        return {
            "pool": Path(self.pool).name,
            "min_prompts": self.min_prompts,
            "data": {
                "sources": list(self.sources),
                "models": list(self.models),
                "rename": dict(self.rename),
                "train_share": self.train_share,
                "split_seed": self.split_seed,
            },
        }


def read_lesson(folder: Path, how: LessonSettings) -> Lesson:
    """The lesson of a folder with ``outcomes.parquet`` and ``prompts.parquet``, of prompts that
    every model answered.

    Raises:
        ConfigurationError: the table can't be used, or is too small; says what to change.
    """
    return lesson_of(read_table(folder, how), how)


def lesson_of(table: OutcomeGrid, how: LessonSettings) -> Lesson:
    """The lesson of a grid without holes, split at random.

    Raises:
        ConfigurationError: it is too small, or can't be split.
    """
    if not 0.0 < how.train_share < 1.0:
        raise ConfigurationError(
            f"the training share is {how.train_share!r}; it must lie in (0, 1): what is held out "
            "tells what the checkpoint is worth"
        )
    try:
        train, test = random_split(table, seed=how.split_seed, train_share=how.train_share)
    except ValueError as error:
        raise ConfigurationError(f"{len(table)} prompts can't be split: {error}") from error
    if len(train) < how.min_prompts:
        raise ConfigurationError(
            f"{len(train)} prompts to learn from; at least {how.min_prompts} are needed. Record "
            "more outcomes (`xrouter backfill`)"
        )
    return Lesson.of(
        table,
        train,
        test,
        pool=how.pool,
        split_seed=how.split_seed,
        near=near_duplicates(train.prompts, test.prompts),
        config=how.public(),
    )


def read_table(folder: Path, how: LessonSettings) -> OutcomeGrid:
    """The complete grid of a folder, with its responses where it keeps them.

    Raises:
        ConfigurationError: a file is missing, or the table can't be used.
    """
    try:
        return _load(folder).complete_grid(
            sources=how.sources or None,
            models=how.models or None,
            rename=how.rename,
            more=("output_tokens", "response"),
        )
    except ValueError as error:
        raise ConfigurationError(f"the outcome table can't be used: {error}") from error


def read_either(folder: Path, how: LessonSettings) -> tuple[OutcomeGrid, bool]:
    """The largest grid without holes, and True, where it has at least half of the prompts that have
    a score; otherwise all that the folder tells, and False.

    Raises:
        ConfigurationError: as :func:`read_log`.
    """
    log = read_log(folder, how)
    try:
        table = read_table(folder, how)
    except ConfigurationError:
        return log, False
    scored = int(np.isfinite(log.score).any(1).sum())
    complete = len(table.models) > 1 and 2 * len(table) >= scored
    return (table, True) if complete else (log, False)


def read_log(folder: Path, how: LessonSettings) -> OutcomeGrid:
    """All that a folder tells, holes and all: prompts × the models that have an outcome with a
    score, or those that are named. Columns ``propensity``, ``observed_at``, ``scored_by`` and
    ``output_tokens`` come along. Of a given pool file's cards alone, where it has any of them.

    Raises:
        ConfigurationError: a file is missing, or the table can't be used.
    """
    return log_of(_load(folder), how)


def log_of(table: OutcomeTable, how: LessonSettings) -> OutcomeGrid:
    """The same of a table that is open already.

    Raises:
        ConfigurationError: the table can't be used.
    """
    try:
        grid = table.grid(
            sources=how.sources or None,
            models=how.models or None,
            rename=how.rename,
            more=("score", "cost_usd", *LOGGED, "input_tokens", "output_tokens"),
            every=True,
        )
    except ValueError as error:
        raise ConfigurationError(f"the outcome table can't be used: {error}") from error
    if not len(grid) or not grid.models:
        chosen = f"of the sources {list(how.sources)!r} " if how.sources else ""
        raise ConfigurationError(
            f"the outcome table can't be used: it has no outcome {chosen}".rstrip()
        )
    # A score counts whether or not its cost is known, and a cost whether or not there is a score.
    grid = dataclasses.replace(grid, score=grid.more["score"], cost=grid.more["cost_usd"])
    told = [m for m, name in enumerate(grid.models) if np.isfinite(grid.score[:, m]).any()]
    if not told:
        raise ConfigurationError(
            "no outcome has a score: name a feedback key or verifiers when the table is built "
            "(`xrouter outcomes build --feedback KEY`)"
        )
    return _of_pool(grid.of([grid.models[m] for m in told]), how)


def _of_pool(grid: OutcomeGrid, how: LessonSettings) -> OutcomeGrid:
    """Without the outcomes of cards that left the pool: what can't be called is no way to choose,
    and no gain. A pool that knows none of the table's names is one of other names."""
    if not how.pool:
        return grid
    names = ModelPool.from_yaml(how.pool, reload=False).names
    here = [model for model, card in zip(grid.models, grid.cards, strict=True) if card in names]
    if not here or len(here) == len(grid.models):
        return grid
    gone = [m for m, card in enumerate(grid.cards) if card not in names]
    counts = {grid.models[m]: int(np.isfinite(grid.score[:, m]).sum()) for m in gone}
    omitted = dataclasses.replace(grid.omitted, strangers={**grid.omitted.strangers, **counts})
    return dataclasses.replace(grid.of(here), omitted=omitted)


def _load(folder: Path) -> OutcomeTable:
    for name in (OUTCOMES, PROMPTS):
        if not folder.joinpath(name).is_file():
            raise ConfigurationError(
                f"{str(folder)!r} has no {name}; give the folder of an outcome table (`xrouter "
                "outcomes build` writes one)"
            )
    return OutcomeTable.load(folder / OUTCOMES, folder / PROMPTS)
