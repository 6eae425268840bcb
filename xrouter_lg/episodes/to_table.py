"""Episodes to an outcome table: what each card was asked, what it scored and what it cost.

One outcome per prompt and card. A request gives an outcome of every card that answered in it, at
that call's own cost; the router's cost is no outcome's. An agent's loop is one outcome at the cost
of all its calls. The same prompt asked of the same card again: scores and costs are averaged, the
newest answer is kept.

Three passes, none of which holds more than some thousand answers in memory: episodes are read and
spilled, answers are judged, outcomes are summed up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.extract import ExtractReport, episodes
from xrouter_lg.episodes.rows import OBSERVED, observations, prompt_id, prompt_row
from xrouter_lg.episodes.spill import Rows, spill_folder
from xrouter_lg.outcomes import OUTCOME_COLUMNS, PROMPT_COLUMNS, OutcomeTable
from xrouter_lg.outcomes.schema import KEY, OutcomeError, normalise_prompt
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.tracing.store.trace_store import TraceStore
from xrouter_lg.verifiers import Suite
from xrouter_lg.verifiers.feedback import Feedback
from xrouter_lg.verifiers.grading import (
    VERDICTS_FILE,
    Grade,
    ScoreReport,
    Scoring,
    Verdicts,
    asked_of,
)

DEFAULT_TASK = "traces"

_SCORED: dict[str, pl.DataType] = {"score": pl.Float64(), "scored_by": pl.String()}

Progress = Callable[[str, int, int | None], None]
"""Called with what is done (``traces``, ``answers``), how many, and of how many, where known."""


@dataclass
class BuildReport:
    """What became of the traces."""

    extracted: ExtractReport = field(default_factory=ExtractReport)
    scores: ScoreReport = field(default_factory=ScoreReport)
    """Of every answer; several may be one outcome."""
    failed_calls: int = 0
    """Calls without an answer in episodes that had one: no outcome, whatever they cost."""
    answers: int = 0
    prompts: int = 0
    outcomes: int = 0
    scored: int = 0
    unpriced: int = 0
    """Outcomes whose cost is unknown."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "traces": self.extracted.traces,
            "episodes": self.extracted.episodes,
            "routed": self.extracted.routed,
            "skipped": dict(self.extracted.skipped.most_common()),
            "failed_calls": self.failed_calls,
            "answers": self.answers,
            "prompts": self.prompts,
            "outcomes": self.outcomes,
            "scored": self.scored,
            "unpriced": self.unpriced,
            "answers_scored": self.scores.scored,
            **{k: v for k, v in self.scores.to_dict().items() if k != "scored"},
        }


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

    with nullcontext() if opened is store else opened, spill_folder(target) as pieces:
        build_outcomes(read(), pieces, scoring or Scoring(), report, progress).write(target)
    return report


def read_references(path: str | Path) -> dict[str, Any]:
    """References by prompt id or normalised prompt text, from JSON lines with ``prompt_id`` or
    ``prompt``, and ``reference``.

    Raises:
        OutcomeError: no such file, a line without these, or two references for one prompt.
    """
    found: dict[str, Any] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise OutcomeError(f"{path}: can't be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key = str(row["prompt_id"] if row.get("prompt_id") else normalise_prompt(row["prompt"]))
            reference = row["reference"]
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise OutcomeError(
                f"{path}, line {number}: needs prompt_id or prompt, and reference ({error!r})"
            ) from error
        if found.setdefault(key, reference) != reference:
            raise OutcomeError(
                f"{path}, line {number}: another line has another reference for this prompt; keep "
                "one"
            )
    return found


def feedback_verifiers(options: Sequence[str]) -> tuple[Feedback, ...]:
    """A verifier for each scale, in the order in which the options name them: a feedback key, or
    ``key=1..5`` where its scale is not 0 to 1.

    Raises:
        OutcomeError: an option that is neither.
    """
    by_scale: dict[tuple[float, float], list[str]] = {}
    for option in options:
        key, equals, scale = option.partition("=")
        number = r"(-?\d+(?:\.\d+)?)"
        found = re.fullmatch(rf"{number}\.\.{number}", scale)
        if not key or (equals and not found):
            raise OutcomeError(
                f"{option!r}; name a feedback key, and its scale unless that is 0 to 1: stars=1..5"
            )
        bounds = (float(found[1]), float(found[2])) if found else (0.0, 1.0)
        by_scale.setdefault(bounds, []).append(key)
    return tuple(Feedback(keys=keys, scale=scale) for scale, keys in by_scale.items())


@contextmanager
def open_scoring(
    folder: str | Path,
    verifiers: str | Path | None,
    *,
    references: str | Path | None = None,
    feedback: tuple[Feedback, ...] = (),
    workers: int = 4,
) -> Iterator[Scoring]:
    """Scoring by files, every verifier proven on its known cases first. Verdicts are kept in
    ``folder``; those of a verifier with other settings don't count.

    Raises:
        OutcomeError, VerifierError: a file can't be read, or a verifier fails its own cases.
    """
    right = {} if references is None else read_references(references)
    if verifiers is None:
        yield Scoring(feedback=feedback, references=right, workers=workers)
        return
    with Suite.from_yaml(verifiers) as suite:
        for proof in suite.check():
            proof.raise_if_bad()
        with Verdicts(Path(folder) / VERDICTS_FILE) as verdicts:
            yield Scoring(
                suite=suite,
                feedback=feedback,
                references=right,
                workers=workers,
                verdicts=verdicts,
            )


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
    scored = _judge(answers, asked, folder, scoring, report, progress)
    outcomes = _summed(scored)
    report.outcomes, report.scored, report.unpriced = (
        outcomes.select(
            pl.len(), pl.col("score").count(), pl.col("cost_usd").null_count().alias("unpriced")
        )
        .collect(engine="streaming")
        .row(0)
    )
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
    """The answers with ``score`` and ``scored_by``."""
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
        scores: list[Grade] = []
        for scored in scoring.score(map(asked_of, asked.iter_rows(named=True)), report.scores):
            scores.append(scored)
            done += 1
            if progress is not None:
                progress("answers", done, report.answers)
        new = {
            "score": [scored.score for scored in scores],
            "scored_by": [None if s.score is None else s.by for s in scores],
        }
        judged.add_piece(piece.hstack(pl.DataFrame(new, _SCORED)))
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
            pl.lit(None, pl.Float64).alias("propensity"),
        )
        .select(list(OUTCOME_COLUMNS))
        .sort([*KEY, "model"])
    )
