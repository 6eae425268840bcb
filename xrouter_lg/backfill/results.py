"""Cached answers as rows of the outcome table, and the table with them in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from xrouter_lg.backfill.answer import Stored
from xrouter_lg.backfill.cache import AnswerCache
from xrouter_lg.backfill.grader import Grader
from xrouter_lg.backfill.known import Known
from xrouter_lg.backfill.selection import Cell, submission
from xrouter_lg.json_text import encodable_value
from xrouter_lg.outcomes import OUTCOME_COLUMNS, OutcomeTable
from xrouter_lg.outcomes.schema import KEY
from xrouter_lg.verifiers.grading import Grade, Submission

UNSCORED = "unscored: "
"""How ``scored_by`` begins where the score is null; the reason follows."""
_LOGGED = ("propensity", "observed_at", "feedback", "served_model")
"""What a log tells of an answer, and asking again does not."""
_NO_GRADER = Grade(None, reason="no verifier was named")


def rows_of(
    cells: Iterable[Cell], known: Known, cache: AnswerCache, grader: Grader | None
) -> list[dict[str, Any]]:
    """One row per cell that has an answer, or whose calls failed for good."""
    rows = []
    for cell in cells:
        found = [stored for key in cell.keys if (stored := cache.find(key)) is not None]
        answers = [stored for stored in found if stored.error is None]
        if answers:
            given = [submission(known, cell.row, cache, stored) for stored in answers]
            grades = [_grade(grader, cache, of) for of in given]
            rows.append(_row(cell, known, answers, grades, given[0].text))
        elif found and len(found) == len(cell.keys):
            why = Grade(None, reason=f"the call failed: {found[0].error}: {found[0].detail}")
            rows.append(_row(cell, known, (), (why,), None))
    return rows


def merged(table: OutcomeTable, rows: Sequence[Mapping[str, Any]]) -> OutcomeTable:
    """The table with these rows. A row goes in the place of one of the same prompt and model
    that has no score, or that holds the same answer; any other outcome there is kept. What only
    the log knows of an answer stays with it."""
    new = pl.DataFrame([encodable_value(dict(row)) for row in rows], OUTCOME_COLUMNS)
    key = [*KEY, "model"]
    old = table.outcomes
    have = old.collect_schema().names()
    if "response" not in have:
        old = old.with_columns(pl.lit(None, pl.String).alias("response"))
    logged = [name for name in _LOGGED if name in have]
    if "observed_at" not in have:
        old = old.with_columns(pl.lit(None, pl.Float64).alias("observed_at"))
        logged.append("observed_at")
    bought_at = pl.col("observed_at").alias("__at")
    new = (
        new.lazy()
        .with_columns(bought_at)
        .drop(logged)
        .join(
            old.filter(pl.col("response").is_not_null()).select(*key, "response", *logged),
            on=[*key, "response"],
            how="left",
            maintain_order="left",
        )
        .with_columns(pl.coalesce("observed_at", "__at"))
        .select(new.columns)
        .collect()
    )
    mark = new.select(*key, pl.col("response").alias("__new"), pl.lit(True).alias("__there"))
    outdated = pl.col("__there").fill_null(False) & (
        pl.col("score").is_null() | (pl.col("response") == pl.col("__new")).fill_null(False)
    )
    kept = (
        old.join(mark.lazy(), on=key, how="left", maintain_order="left")
        .filter(~outdated)
        .drop("__new", "__there")
    )
    fresh = new.lazy().join(kept.select(key), on=key, how="anti", maintain_order="left")
    together = pl.concat([kept, fresh], how="diagonal_relaxed")
    return OutcomeTable.from_frames(together, table.prompts, name="backfilled")


def write_into(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put rows into a folder's table; its files change in one step each, or not at all."""
    if rows:
        # Read anew: the table may be what an earlier call wrote.
        merged(OutcomeTable.load(folder), rows).write(folder)


def _row(
    cell: Cell,
    known: Known,
    answers: Sequence[Stored],
    grades: Sequence[Grade],
    response: str | None,
) -> dict[str, Any]:
    scores = [one.score for one in grades if one.score is not None]
    by = sorted({str(one.by) for one in grades if one.score is not None})
    reason = next((one.reason for one in grades if one.score is None), "")
    return {
        **dict(zip(KEY, known.grid.keys[cell.row], strict=True)),
        "model": known.labels[cell.card.name],
        "score": _mean(scores),
        "input_tokens": _whole([stored.input_tokens for stored in answers]),
        "output_tokens": _whole([stored.output_tokens for stored in answers]),
        "cost_usd": _mean([_float(stored.cost_usd) for stored in answers]),
        "latency_s": _mean([stored.latency_s for stored in answers]),
        "response": response,
        "scored_by": ", ".join(by) if by else f"{UNSCORED}{reason}",
        "observed_at": max((stored.at for stored in answers), default=None),
    }


def _grade(grader: Grader | None, cache: AnswerCache, of: Submission) -> Grade:
    if grader is None:
        return _NO_GRADER
    return grader.find(cache, of) or Grade(None, reason="not judged yet")


def _mean(values: Sequence[float | None]) -> float | None:
    """None as soon as one is unknown: what is known may be the cheap half."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _whole(values: Sequence[int | None]) -> int | None:
    mean = _mean(values)
    return None if mean is None else round(mean)


def _float(value: Decimal | None) -> float | None:
    return None if value is None else float(value)
