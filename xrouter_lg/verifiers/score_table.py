"""Scores for a table that holds answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import polars as pl

from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.schema import KEY
from xrouter_lg.verifiers import Suite
from xrouter_lg.verifiers.grading import Progress, ScoreReport, Scoring, Submission, asked_of

_PIECE = 5000


def score_table(
    table: OutcomeTable,
    scoring: Scoring | Suite,
    *,
    progress: Progress | None = None,
) -> tuple[OutcomeTable, ScoreReport]:
    """Fill the empty scores of a table that holds answers; scores that are there are kept.

    Only keys and new scores are held in memory besides some thousand answers. References are the
    prompts'; those of ``scoring`` win.
    """
    scoring = Scoring(suite=scoring) if isinstance(scoring, Suite) else scoring
    report = ScoreReport()
    numbered = _with(table.outcomes, ("response", "scored_by")).with_row_index("__row")
    empty = numbered.filter(pl.col("score").is_null())
    rows = empty.select("__row").collect()["__row"]
    prompts = _with(table.prompts, ("reference", "meta"))
    scores: list[float | None] = []
    names: list[str | None] = []

    def answers() -> Iterator[Submission]:
        for start in range(0, len(rows), _PIECE):
            some = pl.LazyFrame({"__row": rows[start : start + _PIECE]})
            asked = (
                empty.select(*KEY, "__row", "response")
                .join(some, on="__row", how="semi")
                .join(prompts.select(*KEY, "prompt", "reference", "meta"), on=KEY, how="left")
                .sort("__row")
                .collect(engine="streaming")
            )
            for row in asked.iter_rows(named=True):
                yield asked_of(row, scoring.references)

    for done, scored in enumerate(scoring.score(answers(), report), 1):
        scores.append(scored.score)
        names.append(scored.by)
        if progress is not None:
            progress(done, len(rows))
    new = pl.LazyFrame(
        {"__row": rows, "__score": scores, "__by": names},
        schema={"__row": rows.dtype, "__score": pl.Float64, "__by": pl.String},
    )
    found = pl.col("__score").is_not_null()
    filled = (
        numbered.join(new, on="__row", how="left", maintain_order="left")
        .with_columns(
            pl.coalesce("score", "__score").alias("score"),
            pl.when(found).then("__by").otherwise("scored_by").alias("scored_by"),
        )
        .drop("__row", "__score", "__by")
    )
    return OutcomeTable.from_frames(filled, table.prompts, name="scored"), report


def _with(frame: pl.LazyFrame, names: Iterable[str]) -> pl.LazyFrame:
    have = frame.collect_schema().names()
    return frame.with_columns(
        pl.lit(None, pl.String).alias(name) for name in names if name not in have
    )
