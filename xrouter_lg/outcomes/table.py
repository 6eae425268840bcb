"""Outcome tables: read, check, select, write."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from xrouter_lg.files import whole
from xrouter_lg.json_text import encodable_value
from xrouter_lg.outcomes import formats
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.read_grid import read_grid
from xrouter_lg.outcomes.schema import (
    KEY,
    OUTCOME_COLUMNS,
    PROMPT_COLUMNS,
    OutcomeError,
    Part,
    files_in,
    parts_of,
    readable,
    scan,
)
from xrouter_lg.outcomes.summary import Summary, summarise
from xrouter_lg.outcomes.validate import TableReport, validate

Format = Literal["auto", "routerbench", "llmrouterbench"]


class OutcomeTable:
    """Outcomes and their prompts as lazy frames: nothing is read until it is asked for, and
    checks and sums stream, so a table may be larger than memory."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        if not any(part.kind == "outcomes" for part in parts):
            raise OutcomeError("there are no outcomes, only prompts; name an outcomes file too")
        self.name = ", ".join(part.name for part in parts if part.kind == "outcomes")
        with readable(self.name):
            self.outcomes = _joined(parts, "outcomes")
            self.prompts = _joined(parts, "prompts")

    @classmethod
    def load(cls, *paths: str | Path, format: Format = "auto", source: str = "") -> OutcomeTable:
        """A table from files (Parquet, CSV, JSON Lines) and folders, in any number.

        An outcomes file with a ``prompt`` column needs no prompts file. ``format`` names a
        published layout (:mod:`xrouter_lg.outcomes.formats`); ``source`` then labels its rows.

        Raises:
            OutcomeError: unreadable, missing, or of unknown layout. Values are for `validate`.
        """
        if format != "auto":
            read = {"routerbench": formats.routerbench, "llmrouterbench": formats.llmrouterbench}
            if len(paths) != 1:
                raise OutcomeError(f"format {format!r} takes one path, got {len(paths)}")
            return cls(read[format](paths[0], **({"source": source} if source else {})))
        files: list[Path] = []
        for path in map(Path, paths):
            if not path.exists():
                raise OutcomeError(
                    f"{path}: there is no such file or folder; `xrouter outcomes build --to "
                    "FOLDER` writes one"
                )
            files += files_in(path) if path.is_dir() else [path]
        return cls([scan(path) for path in files])

    @classmethod
    def from_frames(
        cls,
        outcomes: pl.DataFrame | pl.LazyFrame,
        prompts: pl.DataFrame | pl.LazyFrame | None = None,
        *,
        name: str = "memory",
    ) -> OutcomeTable:
        return cls(parts_of(outcomes, prompts, name))

    @classmethod
    def from_rows(
        cls, outcomes: Iterable[Mapping[str, Any]], prompts: Iterable[Mapping[str, Any]]
    ) -> OutcomeTable:
        """A table from dicts; known columns get their types, missing ones are null."""
        return cls.from_frames(
            pl.DataFrame([_row(r, OUTCOME_COLUMNS) for r in outcomes], OUTCOME_COLUMNS),
            pl.DataFrame([_row(r, PROMPT_COLUMNS) for r in prompts], PROMPT_COLUMNS),
        )

    def validate(self) -> TableReport:
        """Everything that is wrong, and what is merely worth knowing."""
        with readable(self.name):
            return validate(self.parts)

    def summary(self) -> Summary:
        with readable(self.name):
            return summarise(self.outcomes, self.prompts)

    def grid(
        self,
        *,
        sources: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
        cards: Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        more: Sequence[str | pl.Expr] = (),
        about: Sequence[str] = (),
        every: bool = False,
    ) -> OutcomeGrid:
        """Prompts × models in memory, with holes. Prompts rise by their key, models by name: two
        reads of the same rows agree whatever their order.

        Args:
            sources: which prompts; None for all.
            models: which models, in this order; None for all.
            cards: a column for each of these cards that the table has a model of (by its
                normalised name), instead of one for each model; models of no card are counted.
            rename: names to replace first, so one model may carry two names in two sources.
            more, about: further columns of the outcomes (or expressions over them) and of the
                prompts; those that the table does not have are left out.
            every: every prompt of the prompts table, in its order, and not only those that have a
                candidate.

        Raises:
            OutcomeError: columns missing, a prompt without text or with two, two outcomes of one
                prompt and column, a score outside [0, 1], a negative cost, or nothing left.
        """
        with readable(self.name):
            return read_grid(
                self.outcomes,
                self.prompts,
                self.name,
                sources=sources,
                models=models,
                cards=cards,
                rename=rename or {},
                more=more,
                about=about,
                every=every,
            )

    def complete_grid(
        self,
        *,
        sources: Sequence[str] | None = None,
        models: Sequence[str] | None = None,
        rename: Mapping[str, str] | None = None,
        more: Sequence[str | pl.Expr] = (),
        about: Sequence[str] = (),
    ) -> OutcomeGrid:
        """The largest grid without holes for `models`: prompts that one of them lacks are left
        out. None for the models that cover every prompt (of `sources`) at a known cost. Otherwise
        as :meth:`grid`.

        Raises:
            OutcomeError: no model covers every prompt, or no prompt has all of `models`.
        """
        grid = self.grid(sources=sources, models=models, rename=rename, more=more, about=about)
        chosen = tuple(models or ())
        if models is None and not grid.omitted.bare:
            covers = np.flatnonzero(grid.candidates.all(0))
            chosen = tuple(grid.models[m] for m in covers)
        if not chosen:
            raise OutcomeError(
                "no model covers every prompt at a known cost: name the models wanted"
            )
        found = grid.complete(chosen)
        if not len(found):
            raise OutcomeError(f"no prompt has an outcome at a known cost of all of {chosen!r}")
        return found

    def write(self, folder: str | Path) -> Path:
        """Write ``outcomes.parquet`` and ``prompts.parquet``; each appears whole or not at all.

        Prompts first: at no moment does an outcome on disk lack its prompt.
        """
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        for name, frame in (("prompts", self.prompts), ("outcomes", self.outcomes)):
            with whole(target / f"{name}.parquet") as temporary, readable(self.name):
                frame.sink_parquet(temporary, compression="zstd")
        return target


def _joined(parts: Sequence[Part], kind: Literal["outcomes", "prompts"]) -> pl.LazyFrame:
    frames = [part.typed() for part in parts if part.kind == kind]
    if kind == "outcomes":
        frames = [frame.drop("prompt", strict=False) for frame in frames]
    if frames:
        return pl.concat(frames, how="diagonal_relaxed")
    inline: list[pl.LazyFrame] = []
    for part in parts:
        have = part.raw.collect_schema().names()
        if "prompt" not in have:
            raise OutcomeError(
                f"{part.name}: there is no prompts file, and these outcomes have no prompt column"
            )
        chosen = [name for name in PROMPT_COLUMNS if name in have]
        inline.append(part.typed().select(chosen).unique(KEY, keep="first", maintain_order=True))
    return pl.concat(inline, how="diagonal_relaxed").unique(KEY, keep="first", maintain_order=True)


def _row(row: Mapping[str, Any], columns: Mapping[str, pl.DataType]) -> dict[str, Any]:
    unknown = sorted(set(row) - set(columns))
    if unknown:
        raise OutcomeError(f"row {dict(row)!r}: unknown {unknown[0]!r}; use {', '.join(columns)}")
    return {name: encodable_value(row.get(name)) for name in columns}
