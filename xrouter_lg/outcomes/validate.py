"""What is wrong with a table: each problem with its file, row, value and fix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from xrouter_lg.files import reading
from xrouter_lg.outcomes.schema import (
    KEY,
    LIMITS,
    OUTCOME_COLUMNS,
    PROMPT_COLUMNS,
    REQUIRED,
    OutcomeError,
    Part,
)

_LIMITED = {
    "score": (
        "is outside [0, 1]",
        "Scale it to [0, 1], or leave it empty where there is no verdict",
    ),
    "feedback": (
        "is outside [0, 1]",
        "Scale it to [0, 1], or leave it empty where nobody said anything",
    ),
    "propensity": (
        "is outside (0, 1]",
        "It is the probability of the call that was made: leave it empty if unknown",
    ),
    "observed_at": (
        "is no time in Unix seconds",
        "Divide milliseconds by 1000, and leave it empty if unknown",
    ),
}
"""What is said of a value outside its column's limits, and the fix."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of defect in one file, with its first example."""

    severity: Literal["error", "note"]
    file: str
    what: str
    fix: str = ""
    row: int | None = None
    """Line of the file (a CSV's header is line 1), or row of a Parquet file from 1."""
    value: Any = None
    count: int = 1

    def __str__(self) -> str:
        place = self.file if self.row is None else f"{self.file}, row {self.row}"
        more = f" ({self.count:,} rows like this)" if self.count > 1 else ""
        value = "" if self.value is None else f", got {self.value!r}"
        return f"{place}: {self.what}{value}{more}{f'. {self.fix}' if self.fix else ''}"


@dataclass(frozen=True, slots=True)
class TableReport:
    """Everything found by :func:`validate`."""

    problems: tuple[Problem, ...]
    outcomes: int
    prompts: int

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]

    @property
    def ok(self) -> bool:
        return not self.errors

    def raise_if_bad(self) -> None:
        """Raise :class:`OutcomeError` with every error, one a line."""
        if not self.ok:
            raise OutcomeError("\n".join(str(problem) for problem in self.errors))


@dataclass(frozen=True, slots=True)
class _Rule:
    column: str
    broken: pl.Expr
    what: str
    fix: str


def validate(parts: Sequence[Part]) -> TableReport:
    """Check files one by one, then keys across them. Streams: memory does not grow with rows."""
    problems: list[Problem] = []
    counts = {"outcomes": 0, "prompts": 0}
    sound: list[Part] = []
    for part in parts:
        found = [*_columns(part)]
        if not any(problem.severity == "error" for problem in found):
            rows, values = _values(part)
            counts[part.kind] += rows
            found += values
            sound.append(part)
        problems += found
    if len(sound) == len(parts):
        problems += _keys(sound)
    return TableReport(tuple(problems), counts["outcomes"], counts["prompts"])


def _columns(part: Part) -> Iterator[Problem]:
    have = part.raw.collect_schema().names()
    known = OUTCOME_COLUMNS if part.kind == "outcomes" else PROMPT_COLUMNS
    missing = [name for name in REQUIRED[part.kind] if name not in have]
    if missing:
        yield Problem(
            "error",
            part.name,
            f"{part.kind} lack the column {', '.join(missing)}",
            f"There are {', '.join(have)}: rename or add",
        )
    unknown = [name for name in have if name not in known]
    if unknown:
        yield Problem("note", part.name, f"unknown columns are kept: {', '.join(unknown)}")


def _rules(part: Part) -> list[_Rule]:
    have = part.raw.collect_schema()
    known = OUTCOME_COLUMNS if part.kind == "outcomes" else PROMPT_COLUMNS
    rules: list[_Rule] = []
    keys = (*KEY, "model") if part.kind == "outcomes" else (*KEY, "prompt")
    for name in keys:
        empty = pl.col(name).is_null() | (pl.col(name).cast(pl.String).str.strip_chars() == "")
        rules.append(_Rule(name, empty, f"{name} is empty", "Every row needs one"))
    for name, kind in known.items():
        if name not in have:
            continue
        value = pl.col(name)
        cast = value.cast(kind, strict=False)
        if have[name] != kind:
            word = {"Float64": "number", "Int64": "whole number"}.get(str(kind), "text")
            bad = value.is_not_null() & cast.is_null()
            rules.append(_Rule(name, bad, f"{name} is no {word}", "Leave it empty if unknown"))
        if name in _LIMITED:
            what, fix = _LIMITED[name]
            rules.append(_Rule(name, ~LIMITS[name].holds(cast), f"{name} {what}", fix))
        elif kind.is_numeric():
            bad = (cast < 0) if kind.is_integer() else ((cast < 0) | ~cast.is_finite())
            rules.append(
                _Rule(name, bad, f"{name} is negative or not finite", "Leave it empty if unknown")
            )
    return rules


def _values(part: Part) -> tuple[int, list[Problem]]:
    rules = _rules(part)
    frame = part.raw.with_row_index("__row")
    sums = [rule.broken.fill_null(False).sum().alias(str(i)) for i, rule in enumerate(rules)]
    try:
        with reading(OutcomeError):
            counted = frame.select(pl.len().alias("rows"), *sums).collect(engine="streaming").row(0)
    except OutcomeError as error:
        fix = "Every line of a JSON Lines file is one object of the same columns"
        return 0, [Problem("error", part.name, f"can't be read: {error}", fix)]
    problems: list[Problem] = []
    for rule, count in zip(rules, counted[1:], strict=True):
        if count:
            first = frame.filter(rule.broken).select("__row", rule.column).head(1).collect()
            row, value = first.row(0)
            problems.append(
                Problem(
                    "error",
                    part.name,
                    rule.what,
                    rule.fix,
                    row=row + 1 + part.header_rows,
                    value=value,
                    count=count,
                )
            )
    if part.kind == "outcomes":
        problems += _notes(part)
    return counted[0], problems


def _notes(part: Part) -> Iterator[Problem]:
    frame = part.typed()
    have = frame.collect_schema().names()
    tokens = pl.col("output_tokens") if "output_tokens" in have else pl.lit(1)
    cost = pl.col("cost_usd") if "cost_usd" in have else pl.lit(None, pl.Float64)
    unscored, unpriced, free = (
        frame.select(
            pl.col("score").is_null().sum().alias("unscored"),
            (cost.is_null().sum() if "cost_usd" in have else pl.len()).alias("unpriced"),
            ((cost == 0) & (tokens > 0)).fill_null(False).sum().alias("free"),
        )
        .collect(engine="streaming")
        .row(0)
    )
    if unscored:
        yield Problem("note", part.name, "score is empty: not judged", count=unscored)
    if unpriced:
        what = "cost_usd is empty: unknown"
        yield Problem("note", part.name, what, "Such models stay out of a pool", count=unpriced)
    if free:
        what = "cost_usd is 0 for an answer with tokens"
        yield Problem("note", part.name, what, "If it is unknown, leave it empty", count=free)


def _keys(parts: Sequence[Part]) -> Iterator[Problem]:
    frames: dict[str, pl.LazyFrame] = {}
    for kind, key in (("outcomes", (*KEY, "model")), ("prompts", KEY)):
        placed = [
            part.typed()
            .with_row_index("__row", offset=1 + part.header_rows)
            .select(*key, "__row", pl.lit(i).alias("__part"))
            for i, part in enumerate(parts)
            if part.kind == kind
        ]
        if not placed:
            continue
        frames[kind] = frame = pl.concat(placed)
        twice = (
            frame.group_by(key)
            .agg(pl.len().alias("__n"))
            .filter(pl.col("__n") > 1)
            .collect(engine="streaming")
        )
        if twice.height:
            example = twice.sort(key).head(1).select(key)
            rows = frame.join(example.lazy(), on=key, how="semi").collect()
            places = [
                f"{parts[part].name} row {row}"
                for row, part in rows.select("__row", "__part").head(3).iter_rows()
            ]
            last = rows.tail(1).select("__row", "__part").row(0)
            yield Problem(
                "error",
                parts[last[1]].name,
                f"({', '.join(key)}) is there more than once: {', '.join(places)}",
                "Keep one, or give repeats their own prompt_id",
                row=last[0],
                value=example.row(0),
                count=int(twice["__n"].sum()) - twice.height,
            )
    if len(frames) == 2:
        yield from _orphans(frames, parts)


def _orphans(frames: dict[str, pl.LazyFrame], parts: Sequence[Part]) -> Iterator[Problem]:
    prompts = frames["prompts"].select(KEY).unique()
    lost = frames["outcomes"].join(prompts, on=KEY, how="anti")
    count = lost.select(pl.len()).collect(engine="streaming").item()
    if count:
        row = lost.head(1).collect().row(0, named=True)
        yield Problem(
            "error",
            parts[row["__part"]].name,
            "no prompt has this (source, task, prompt_id)",
            "Add it to the prompts, or drop the outcome",
            row=row["__row"],
            value=tuple(row[name] for name in KEY),
            count=count,
        )
    unused = (
        prompts.join(frames["outcomes"].select(KEY).unique(), on=KEY, how="anti")
        .select(pl.len())
        .collect(engine="streaming")
        .item()
    )
    if unused:
        name = next(part.name for part in parts if part.kind == "prompts")
        yield Problem("note", name, "prompts without an outcome", count=unused)
