"""Columns of the two tables, and files as lazy frames of them."""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from xrouter_lg.errors import XRouterError
from xrouter_lg.files import reading

KEY = ("source", "task", "prompt_id")
"""What names a prompt in both tables."""

OUTCOME_COLUMNS: dict[str, pl.DataType] = {
    "source": pl.String(),
    "task": pl.String(),
    "prompt_id": pl.String(),
    "model": pl.String(),
    "score": pl.Float64(),
    "input_tokens": pl.Int64(),
    "output_tokens": pl.Int64(),
    "cost_usd": pl.Float64(),
    "latency_s": pl.Float64(),
    "response": pl.String(),
    "scored_by": pl.String(),
    "propensity": pl.Float64(),
    "observed_at": pl.Float64(),
    "feedback": pl.Float64(),
    "served_model": pl.String(),
}
"""Outcomes. Score in [0, 1] or null (not judged), cost in USD or null (unknown, never 0).
``propensity`` is the probability, in (0, 1], with which the logging policy called this model on
this prompt (1: it could not have been another), ``observed_at`` when it was called, in Unix
seconds, ``scored_by`` who gave the score; `xrouter_lg.value.evidence` weighs outcomes by these.
``feedback`` is what users said of the answer, 0 to 1, also where a verifier gave the score;
``served_model`` is what the provider says has answered. Null is unknown in each."""

PROMPT_COLUMNS: dict[str, pl.DataType] = {
    "source": pl.String(),
    "task": pl.String(),
    "prompt_id": pl.String(),
    "prompt": pl.String(),
    "category": pl.String(),
    "reference": pl.String(),
    "meta": pl.String(),
}
"""Prompts. ``reference`` is the gold answer where known, ``meta`` a JSON object."""

LATEST = 1e11
"""Unix seconds after which a time is one in milliseconds: a year of four digits is before it."""


@dataclass(frozen=True, slots=True)
class ColumnLimits:
    """Where a column's values may lie; all of them are finite."""

    low: float
    high: float
    rule: str
    """What a value must do, in words."""
    above: bool = False
    """Whether the lower end itself is outside."""

    def holds(self, value: pl.Expr) -> pl.Expr:
        low = value > self.low if self.above else value >= self.low
        return low & (value <= self.high) & value.is_finite()


LIMITS = {
    "score": ColumnLimits(0.0, 1.0, "lie in [0, 1]"),
    "cost_usd": ColumnLimits(0.0, math.inf, "lie in [0, inf]"),
    "feedback": ColumnLimits(0.0, 1.0, "lie in [0, 1]"),
    "propensity": ColumnLimits(
        0.0, 1.0, "lie in (0, 1], and is empty where it is unknown", above=True
    ),
    "observed_at": ColumnLimits(0.0, LATEST, "be Unix seconds, not milliseconds"),
}
"""Of the outcomes' columns that are learned from."""

REQUIRED = {"outcomes": (*KEY, "model", "score"), "prompts": (*KEY, "prompt")}

Kind = Literal["outcomes", "prompts"]
_SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")


class OutcomeError(XRouterError, ValueError):
    """A table can't be used; the message names file, row, value and fix."""


def normalise_prompt(text: str) -> str:
    """The text by which prompts count as the same: NFKC, case folded, blanks collapsed."""
    text = unicodedata.normalize("NFKC", text).casefold()
    # Folding can undo the composition; a second round reaches the fixed point.
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def prompt_key(text: str, *, seed: int = 0) -> int:
    """64 bits of a prompt's normalised text, the same on every machine and in every run."""
    salt = seed.to_bytes(8, "little", signed=True)
    data = normalise_prompt(text).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, salt=salt).digest(), "little")


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a table as it is written: columns not yet cast. ``name`` is shown in errors."""

    name: str
    kind: Kind
    raw: pl.LazyFrame
    header_rows: int = 0
    """Lines before the first row, so that a reported row is a line of the file."""

    def typed(self) -> pl.LazyFrame:
        """Known columns in their types (what doesn't fit becomes null), unknown ones kept."""
        columns = OUTCOME_COLUMNS if self.kind == "outcomes" else PROMPT_COLUMNS
        have = self.raw.collect_schema()
        casts = [
            pl.col(name).cast(kind, strict=False)
            for name, kind in columns.items()
            if name in have and have[name] != kind
        ]
        return self.raw.with_columns(casts) if casts else self.raw


def parts_of(
    outcomes: pl.DataFrame | pl.LazyFrame, prompts: pl.DataFrame | pl.LazyFrame | None, name: str
) -> list[Part]:
    """Frames as the parts of a table."""
    parts = [Part(f"{name} outcomes", "outcomes", outcomes.lazy())]
    return (
        parts if prompts is None else [*parts, Part(f"{name} prompts", "prompts", prompts.lazy())]
    )


def scan(path: Path, *, kind: Kind | None = None) -> Part:
    """A file as a part; its kind is read off its columns.

    Raises:
        OutcomeError: unknown format, unreadable, or neither outcomes nor prompts.
    """
    suffix = path.suffix.lower()
    damaged = f"{path}: can't be read as {suffix[1:]}: "
    with reading(lambda said: OutcomeError(damaged + said), OSError):
        if suffix == ".parquet":
            raw = pl.scan_parquet(path)
        elif suffix == ".csv":
            # As text: a value that is no number must be reported, not stop the reader.
            raw = pl.scan_csv(path, infer_schema=False)
        elif suffix in (".jsonl", ".ndjson"):
            raw = pl.scan_ndjson(path, infer_schema_length=10_000)
        else:
            raise OutcomeError(f"{path}: unknown format; use {', '.join(_SUFFIXES)}")
        columns = raw.collect_schema().names()
    if kind is None:
        kind = _kind(columns, path)
    return Part(str(path), kind, raw, header_rows=1 if suffix == ".csv" else 0)


def readable(name: str) -> AbstractContextManager[None]:
    """Around what reads a table's rows.

    Raises:
        OutcomeError: a file of it turns out to be damaged, or holds what no column can.
    """
    return reading(
        lambda said: OutcomeError(
            f"{name}: can't be read: {said}. A file of it is damaged, or its columns are of other "
            "types than outcomes have; write it again"
        )
    )


def _kind(columns: Sequence[str], path: Path) -> Kind:
    if "model" in columns and "score" in columns:
        return "outcomes"
    wide = [name for name in columns if name.endswith("|total_cost")]
    if "prompt" in columns and "model" not in columns and not wide:
        return "prompts"
    hint = "; this looks like RouterBench's wide table: use format='routerbench'" if wide else ""
    raise OutcomeError(
        f"{path}: columns {', '.join(columns[:12])} are neither outcomes (model, score, ...) nor "
        f"prompts (prompt, ...){hint}"
    )


def files_in(folder: Path) -> list[Path]:
    """The table's files: ``outcomes.*`` and ``prompts.*``, else every ``outcomes*``/``prompts*``.

    Raises:
        OutcomeError: there are none.
    """
    found: list[Path] = []
    for stem in ("outcomes", "prompts"):
        exact = [folder / f"{stem}{suffix}" for suffix in _SUFFIXES]
        exact = [path for path in exact if path.exists()]
        parts = sorted(p for p in folder.glob(f"{stem}*") if p.suffix.lower() in _SUFFIXES)
        found += exact[:1] or parts
    if not any(path.name.startswith("outcomes") for path in found):
        raise OutcomeError(
            f"{folder}: no outcomes.parquet, .csv or .jsonl in it; name the files themselves"
        )
    return found
