"""A lesson out of the folder of an outcome table: what `xrouter train` fits on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.lesson import Lesson
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.near import near_duplicates
from xrouter_lg.outcomes.split import random_split

OUTCOMES, PROMPTS = "outcomes.parquet", "prompts.parquet"


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
    """A pool file, whose prices are recorded."""
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
    """The lesson of a folder with ``outcomes.parquet`` and ``prompts.parquet``.

    Raises:
        ConfigurationError: the table can't be used, or is too small; says what to change.
    """
    table = read_table(folder, how)
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
    for name in (OUTCOMES, PROMPTS):
        if not folder.joinpath(name).is_file():
            raise ConfigurationError(
                f"{str(folder)!r} has no {name}; give the folder of an outcome table (`xrouter "
                "outcomes build` writes one)"
            )
    try:
        return OutcomeTable.load(folder / OUTCOMES, folder / PROMPTS).complete_grid(
            sources=how.sources or None,
            models=how.models or None,
            rename=how.rename,
            more=("output_tokens", "response"),
        )
    except (ValueError, pl.exceptions.PolarsError) as error:
        raise ConfigurationError(f"the outcome table can't be used: {error}") from error
