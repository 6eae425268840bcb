"""Routed requests of a store as live judging reads them: what was decided, what came of it.

The route record says what was decided and paid; the episode (where texts were stored) says what was
asked and how it was received. Requests of one thread are alike, so everything that is drawn or
tested here counts threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from sqlalchemy import func, select

from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.folder import read_manifest
from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.extract import episodes
from xrouter_lg.episodes.rows import prompt_id
from xrouter_lg.figures.bootstrap import Figure, bootstrap_means, figure
from xrouter_lg.fitting.family_head import read_partition
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.policies.utility import load_head
from xrouter_lg.route_record import RouteRecord
from xrouter_lg.said import question_of, text_of
from xrouter_lg.tracing.runs.extract import route_records
from xrouter_lg.tracing.runs.importing import utc_text
from xrouter_lg.tracing.store import schema
from xrouter_lg.tracing.store.trace_store import TraceStore

Outcome = tuple[float | None, float | None]
Outcomes = Mapping[tuple[str, str], Outcome]
"""Score and USD by prompt id and card."""


@dataclass(frozen=True)
class LiveRequest:
    """One routed request."""

    thread: str
    """Its thread; a request without one is a thread of its own."""
    record: RouteRecord
    text: str | None = None
    """The last message, where it was stored."""
    prompt_id: str | None = None
    score: float | None = None
    """Of the answer that was served: from the outcome table, else from feedback."""

    @property
    def first(self) -> Mapping[str, Any]:
        """The first decision."""
        return self.record.decisions[0] if self.record.decisions else {}

    @property
    def card(self) -> str | None:
        """The card that was called on the first turn; None where it was not exactly one."""
        calls = self.first.get("calls") or []
        return str(calls[0]["card"]) if len(calls) == 1 else None

    @property
    def single(self) -> bool:
        """One decision and one call: its outcome is the outcome of that choice."""
        return self.record.turns == 1 and self.card is not None

    @property
    def support(self) -> Mapping[str, float] | None:
        """Probabilities of all cards that could be drawn; None where they are not on record."""
        drawn = self.first.get("explore")
        if drawn:
            return dict(drawn)
        return {str(self.card): 1.0} if self.record.propensity == 1.0 else None

    @property
    def shadow(self) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = self.first.get("shadow")
        return found

    @property
    def usd(self) -> float | None:
        return usd_as_float(self.record.cost_usd)

    @property
    def worker_usd(self) -> float | None:
        return usd_as_float(self.record.worker_cost_usd)


@dataclass
class Traffic:
    """Requests, oldest first, and what was passed over."""

    requests: list[LiveRequest] = field(default_factory=list)
    traces: int = 0
    untold: Counter[str] = field(default_factory=Counter)
    """Requests without a text or a score, by reason."""


def read_traffic(
    store: TraceStore,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    project: str | None = None,
    feedback: str | None = None,
    outcomes: Outcomes | None = None,
) -> Traffic:
    """The routed requests of a store. ``feedback`` is the key whose score, in [0, 1], tells how
    good the answer was; an outcome in the table goes before it."""
    traffic = Traffic()
    for trace in store.iter_traces(since=since, until=until, project=project):
        traffic.traces += 1
        told = {found.run_id: found for found in episodes(trace.runs, trace.feedback)}
        for route in route_records(trace.runs):
            episode = told.get(route.run_id or route.collect_run_id)
            record = route.record
            thread = record.thread_id or f"{route.trace_id}/{route.collect_run_id}"
            if episode is None:
                traffic.untold["no text was stored"] += 1
                traffic.requests.append(LiveRequest(thread, record))
                continue
            key = prompt_id(episode)
            score = None
            if outcomes is not None and record.route is not None:
                score = outcomes.get((key, record.route), (None, None))[0]
            if score is None and feedback is not None:
                score = _said(episode, feedback)
            if score is None:
                traffic.untold["no score"] += 1
            text = text_of(question_of(episode.messages))
            traffic.requests.append(LiveRequest(thread, record, text, key, score))
    traffic.requests.sort(key=lambda request: request.record.started_at)
    return traffic


def usual_feedback(store: TraceStore, since: datetime | None = None) -> str | None:
    """The key under which most scores in [0, 1] were given (since then); None where there is no
    such score."""
    said = schema.feedback
    given = func.count().label("given")
    query = select(said.c.key, given).where(said.c.score.between(0.0, 1.0))
    if since is not None:
        query = query.where(said.c.created_at >= utc_text(since))
    query = query.group_by(said.c.key).order_by(given.desc(), said.c.key).limit(1)
    return next((str(row["key"]) for row in store.rows(query)), None)


def kinds_of(checkpoint: Path, requests: Sequence[LiveRequest]) -> list[str] | None:
    """The kind that each request is of, as the checkpoint in that folder reads it; ``""`` where no
    text was stored. None for a checkpoint that knows no kinds.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
    """
    head = load_head(read_manifest(checkpoint), checkpoint)
    if head is None:
        return None
    texts = sorted({request.text for request in requests if request.text is not None})
    if not texts:
        return [""] * len(requests)
    read = read_partition(head, texts)
    kind = {text: read.names[f] for text, f in zip(texts, read.family_N, strict=True)}
    return [kind.get(request.text or "", "") for request in requests]


def read_outcomes(paths: Sequence[str | Path]) -> Outcomes:
    """Scores and costs of an outcome table (that `xrouter outcomes` or `xrouter backfill` wrote),
    by prompt id and card.

    Raises:
        OutcomeError: no such file, or of another layout.
    """
    table = OutcomeTable.load(*paths)
    names = table.outcomes.collect_schema().names()
    cost = pl.col("cost_usd") if "cost_usd" in names else pl.lit(None, pl.Float64())
    rows = table.outcomes.select("prompt_id", "model", "score", cost.alias("cost_usd")).collect()
    return {
        (prompt, model): (score, usd)
        for prompt, model, score, usd in rows.iter_rows()
        if score is not None or usd is not None
    }


def by_thread(values: Floats, threads: Sequence[str]) -> tuple[Floats, int]:
    """Sums of the [K, N] values per thread, [K, T], and T."""
    _, at = np.unique(np.array(threads), return_inverse=True)
    count = int(at.max()) + 1 if len(at) else 0
    sums: Floats = np.stack([np.bincount(at, row, count).astype(np.float64) for row in values])
    return sums, count


def ratio_of_means(
    top: Floats, bottom: Floats, threads: Sequence[str], *, draws: int, seed: int
) -> Floats:
    """[1 + draws] samples of Σ top / Σ bottom, whole threads drawn with replacement; row 0 is the
    sample itself."""
    sums, _ = by_thread(np.stack([top, bottom]), threads)
    means = bootstrap_means(sums, draws=draws, seed=seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = np.where(means[:, 1] > 0, means[:, 0] / means[:, 1], np.nan)
    return found


def thread_mean(values: Floats, threads: Sequence[str], *, draws: int, seed: int) -> Figure:
    """The mean over requests, its interval over threads; without one below two threads."""
    if not len(values):
        return Figure(None, None, None)
    samples = ratio_of_means(values, np.ones(len(values)), threads, draws=draws, seed=seed)
    if len(set(threads)) < 2:
        return Figure(float(samples[0]), None, None)
    return figure(samples[np.isfinite(samples)])


def cost_weight_of(requests: Iterable[LiveRequest]) -> float:
    """The cost weight that most requests were decided at; 0 without requests."""
    counts = Counter(request.record.cost_weight for request in requests)
    return counts.most_common(1)[0][0] if counts else 0.0


def _said(episode: Episode, key: str) -> float | None:
    """The newest score under that key on this answer, or on a trace that is this request alone."""
    found = [
        entry["score"]
        for entry in episode.feedback
        if entry["key"] == key and entry["score"] is not None and entry.get("about") == "answer"
    ]
    return float(found[-1]) if found else None


def usd_as_float(text: str | None) -> float | None:
    return None if text is None else float(text)
