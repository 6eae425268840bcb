"""Episodes to an outcome table: what each card was asked, what it scored and what it cost.

One outcome per prompt and card. A request gives an outcome of every card that answered in it, at
that call's own cost; the router's cost is no outcome's. An agent's loop is one outcome at the cost
of all its calls. The same prompt asked of the same card again: scores, costs and what users said
are averaged, the newest answer is kept with its time and the model that was served.

``propensity`` is the probability with which the card was called, where the log knows it
(:mod:`xrouter_lg.episodes.propensity`); of the same prompt asked again the mean, and unknown as
soon as one is: the known ones may be those of another policy. Feedback is joined by the ids of
traces and runs at every build, so what comes days later is in the next one.

Three passes, none of which holds more than some thousand answers in memory: episodes are read and
spilled, answers are judged, outcomes are summed up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from xrouter_lg.episodes.build_report import BuildReport
from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.extract import episodes
from xrouter_lg.episodes.feedback import STRAY
from xrouter_lg.episodes.propensity import logged_propensity
from xrouter_lg.episodes.rows import OBSERVED, observations, prompt_id, prompt_row
from xrouter_lg.episodes.spill import Rows, spill_folder
from xrouter_lg.outcomes import OUTCOME_COLUMNS, PROMPT_COLUMNS, OutcomeTable
from xrouter_lg.outcomes.schema import KEY, OutcomeError
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.tracing.store.trace_store import TraceStore
from xrouter_lg.verifiers.feedback import Feedback
from xrouter_lg.verifiers.grading import Grade, Scoring, asked_of

DEFAULT_TASK = "traces"

_SCORED: dict[str, pl.DataType] = {
    "score": pl.Float64(),
    "scored_by": pl.String(),
    "feedback": pl.Float64(),
}
_AHEAD_S = 86_400.0
"""Seconds that clocks may differ by before it is said."""

Progress = Callable[[str, int, int | None], None]
"""Called with what is done (``traces``, ``answers``), how many, and of how many, where known."""


def outcomes_from_store(
    store: TraceStore | str | Path,
    folder: str | Path,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    project: str | None = None,
    pool: ModelPool | None = None,
    scoring: Scoring | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Write the outcome table of a store's traces to ``folder``; see :func:`build_outcomes`.

    The store is an open one, a path, or a URL as ``sqlite:///traces.db``. The table appears whole
    or not at all.

    Raises:
        StoreError: there is no such store, or it can't be read.
        OutcomeError: no trace gives an outcome; the message says why.
    """
    opened = store if isinstance(store, TraceStore) else TraceStore(store, create=False)
    report, target = BuildReport(), Path(folder)

    def read() -> Iterator[Episode]:
        total = opened.count_traces(until=until) if since is None and project is None else None
        for trace in opened.iter_traces(since=since, until=until, project=project):
            yield from episodes(trace.runs, trace.feedback, pool=pool, report=report.extracted)
            if progress is not None:
                progress("traces", report.extracted.traces, total)
        if stray := opened.count_stray_feedback():
            report.extracted.lost_feedback[STRAY] += stray

    with nullcontext() if opened is store else opened, spill_folder(target) as pieces:
        build_outcomes(read(), pieces, scoring or Scoring(), report, progress).write(target)
    return report


# --- the three passes ----------------------------------------------------------------------


def build_outcomes(
    found: Iterable[Episode],
    folder: Path,
    scoring: Scoring,
    report: BuildReport,
    progress: Progress | None,
) -> OutcomeTable:
    """The outcome table of episodes, as lazy frames over the pieces in ``folder``.

    A verifier judges every answer, against the reference of ``scoring`` or else the newest
    correction in the prompt's feedback. What no verifier scores, feedback on that very answer
    does. Source is the project, task the trace's.

    Raises:
        OutcomeError: no episode, or none with an answer; the message says what was skipped.
    """
    answers, prompts = _observe(found, folder, scoring.references, report)
    if not answers.count:
        skipped = "; ".join(f"{n} × {why}" for why, n in report.extracted.skipped.most_common())
        raise OutcomeError(
            f"no outcome in {report.extracted.traces} traces{f' ({skipped})' if skipped else ''}. "
            "Record requests first, or name another project or a longer time"
        )
    corrected = (
        answers.frame()
        .filter(pl.col("correction").is_not_null())
        .group_by(KEY)
        .agg(pl.col("correction").sort_by("at").last())
        .collect(engine="streaming")
    )
    asked = (
        prompts.frame()
        .join(corrected.lazy(), on=KEY, how="left", maintain_order="left")
        .with_columns(pl.coalesce("reference", "correction").alias("reference"))
        .select(list(PROMPT_COLUMNS))
    )
    report.ahead = _ahead(answers, report.extracted.newest)
    outcomes = _summed(_judge(answers, asked, folder, scoring, report, progress))
    _count(outcomes, report)
    return OutcomeTable.from_frames(outcomes, asked, name="traces")


def _observe(
    found: Iterable[Episode], folder: Path, references: Mapping[str, Any], report: BuildReport
) -> tuple[Rows, Rows]:
    """Every answer as a row, and every prompt once."""
    answers, prompts = Rows(folder, "answers", OBSERVED), Rows(folder, "prompts", PROMPT_COLUMNS)
    seen: set[tuple[str, str, str]] = set()
    for episode in found:
        report.failed_calls += sum(call.answer is None for call in episode.calls)
        key = (episode.project or "traces", episode.task or DEFAULT_TASK, prompt_id(episode))
        rows = observations(episode, key)
        if rows and rows[0]["propensity"] is None:
            report.unknown_propensity[logged_propensity(episode)[1]] += len(rows)
        if rows and key not in seen:
            seen.add(key)
            prompts.add(prompt_row(key, episode, references))
        for row in rows:
            answers.add(row)
    report.answers, report.prompts = answers.count, prompts.count
    return answers, prompts


def _judge(
    answers: Rows,
    prompts: pl.LazyFrame,
    folder: Path,
    scoring: Scoring,
    report: BuildReport,
    progress: Progress | None,
) -> pl.LazyFrame:
    """The answers with ``score``, ``scored_by`` and ``feedback``."""
    if not scoring.grades:
        report.scores.unscored["no verifier or feedback key was named"] += report.answers
        nothing = [pl.lit(None, kind).alias(name) for name, kind in _SCORED.items()]
        return answers.frame().with_columns(nothing)
    judged = Rows(folder, "judged", {**OBSERVED, **_SCORED})
    told = prompts.select(*KEY, "prompt", "reference", "meta")
    done = 0
    for path in answers.files():
        piece = pl.read_parquet(path)
        asked = piece.lazy().join(told, on=KEY, how="left", maintain_order="left").collect()
        handed_in = [asked_of(row) for row in asked.iter_rows(named=True)]
        grades: list[Grade] = []
        for grade in scoring.score(handed_in, report.scores):
            grades.append(grade)
            done += 1
            if progress is not None:
                progress("answers", done, report.answers)
        new = {
            "score": [grade.score for grade in grades],
            "scored_by": [None if grade.score is None else grade.by for grade in grades],
            "feedback": [scoring.said(of) for of in handed_in],
        }
        told_of = piece.hstack(pl.DataFrame(new, _SCORED))
        report.cut += told_of.filter(pl.col("truncated") & pl.col("feedback").is_not_null()).height
        judged.add_piece(told_of)
    return judged.frame()


def _summed(scored: pl.LazyFrame) -> pl.LazyFrame:
    """One row per prompt and card."""

    def if_all_known(name: str) -> pl.Expr:
        # One unknown makes the mean unknown: what is known may be the cheap half.
        return pl.when(pl.col(name).null_count() == 0).then(pl.col(name).mean()).alias(name)

    tokens = [
        if_all_known(name).round().cast(pl.Int64).alias(name)
        for name in ("input_tokens", "output_tokens")
    ]
    names = pl.col("scored_by").drop_nulls().unique().sort().str.join(", ")
    return (
        scored.group_by([*KEY, "model"])
        .agg(
            pl.col("score").mean(),
            *tokens,
            if_all_known("cost_usd"),
            pl.col("latency_s").mean(),
            pl.col("response").sort_by("at").last(),
            pl.when(pl.col("score").count() > 0).then(names).alias("scored_by"),
            pl.col("at").max().alias("observed_at"),
            if_all_known("propensity"),
            pl.col("feedback").mean(),
            pl.col("served_model").sort_by("at").last(),
        )
        .select(list(OUTCOME_COLUMNS))
        .sort([*KEY, "model"])
    )


def _ahead(answers: Rows, newest: float | None) -> int:
    """How many answers bear a time that can't be."""
    now = time.time()
    limit = min(now if newest is None else newest, now) + _AHEAD_S
    return int(answers.frame().filter(pl.col("at") > limit).select(pl.len()).collect().item())


def _count(outcomes: pl.LazyFrame, report: BuildReport) -> None:
    said = pl.col("feedback").is_not_null()
    verified = pl.col("scored_by").is_not_null() & ~pl.col("scored_by").str.contains(Feedback.name)
    counted = outcomes.select(
        outcomes=pl.len(),
        scored=pl.col("score").count(),
        unpriced=pl.col("cost_usd").null_count(),
        known_propensity=pl.col("propensity").count(),
        drawn=(pl.col("propensity") < 1).sum(),
        feedback=said.sum(),
        judged_twice=(said & verified).sum(),
    ).collect(engine="streaming")
    for name, count in counted.row(0, named=True).items():
        setattr(report, name, count)
