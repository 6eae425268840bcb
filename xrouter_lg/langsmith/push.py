"""Feedback to the local store and to LangSmith, under one id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid4, uuid5

from xrouter_lg.langsmith.connection import LangSmith, Project
from xrouter_lg.langsmith.errors import (
    FeedbackNotSentError,
    LangSmithIntegrationError,
    LangSmithRefusedError,
)
from xrouter_lg.langsmith.progress import OnProgress, Progress
from xrouter_lg.langsmith.pull_feedback import to_langsmith
from xrouter_lg.tracing.store.trace_store import TraceStore
from xrouter_lg.tracing.store.write import pieces

_RUNS_AT_A_TIME = 50


class FeedbackWriter:
    """Writes feedback to both places. Keep one for the life of the app; it is not for several
    threads at once.

    ``extend_retention`` lets feedback upgrade a trace to LangSmith's long, dearer retention; off
    unless asked for.
    """

    def __init__(
        self,
        store: TraceStore,
        langsmith: LangSmith,
        project: str,
        *,
        extend_retention: bool = False,
    ) -> None:
        self._store, self._langsmith, self._name = store, langsmith, project
        self._extend = extend_retention
        self._project: Project | None = None

    def record_feedback(
        self,
        trace_id: str,
        key: str,
        score: float | None,
        *,
        value: Any = None,
        correction: Mapping[str, Any] | None = None,
        comment: str | None = None,
        run_id: str | None = None,
        feedback_id: str | None = None,
    ) -> str:
        """Attach a score to a request, or to one run of it; returns the feedback's id.

        The local store has the score as given. LangSmith rounds it to four decimals; where that
        loses something, the exact score goes into ``value`` there, and a pull restores it.
        ``feedback_id`` makes it idempotent: the same id again replaces, in both places.

        Raises:
            StoreError: the local store does not take it; nothing was sent.
            FeedbackNotSentError: it is in the local store only. ``xrouter traces push`` sends
                what is missing, or record it again under the error's ``feedback_id``.
        """
        known = str(uuid4()) if feedback_id is None else uuid_of(feedback_id)
        said = {"value": value, "correction": correction, "comment": comment}
        self._store.record_feedback(trace_id, key, score, run_id=run_id, feedback_id=known, **said)
        about = {"id": known, "run_id": run_id or trace_id, "trace_id": trace_id}
        entry = {**about, "key": key, "score": score, **said}
        try:
            send(self._langsmith, self._resolved(), entry, extend_retention=self._extend)
        except LangSmithIntegrationError as error:
            raise FeedbackNotSentError(
                f"feedback {key!r} on trace {trace_id} is in the local store, but not in "
                f"LangSmith: {error} Send it later with: xrouter traces push "
                f"--project {self._name}",
                known,
            ) from None
        return known

    def _resolved(self) -> Project:
        if self._project is None:
            self._project = self._langsmith.project(self._name)
        return self._project


def send(
    langsmith: LangSmith,
    project: Project,
    entry: Mapping[str, Any],
    *,
    extend_retention: bool = False,
) -> None:
    """Create feedback in LangSmith, or replace what has its id.

    Raises:
        LangSmithRefusedError: with status 404, LangSmith does not have the run (yet).
    """
    score, value = to_langsmith(entry["score"], entry["value"])
    run_id = None if entry["run_id"] == entry["trace_id"] else entry["run_id"]
    langsmith.ask(
        lambda: langsmith.client.create_feedback(
            run_id=run_id,
            key=entry["key"],
            score=score,
            value=value,
            trace_id=entry["trace_id"],
            session_id=project.id,
            correction=entry["correction"],
            comment=entry["comment"],
            feedback_id=entry["id"],
            extend_trace_retention=extend_retention,
            stop_after_attempt=1,  # patience is kept in one place
        ),
        what=f"feedback {entry['key']!r}",
    )


@dataclass
class PushSummary:
    """What a push of feedback did."""

    project: str
    traces: int = 0
    """With feedback."""
    sent: int = 0
    there: int = 0
    """Feedback that LangSmith had already."""
    no_run: int = 0
    """Feedback on runs that LangSmith does not have."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def push_feedback(
    project: str,
    store: TraceStore,
    *,
    langsmith: LangSmith,
    since: datetime | None = None,
    extend_retention: bool = False,
    on_progress: OnProgress | None = None,
) -> PushSummary:
    """Send feedback of the local store that LangSmith lacks. What it has is never overwritten."""
    target = langsmith.project(project)
    summary = PushSummary(target.name)
    held: list[dict[str, Any]] = []

    def flush() -> None:
        _send_missing(langsmith, target, held, summary, extend_retention)
        held.clear()
        if on_progress is not None:
            on_progress(Progress(0.0, summary.traces, 0, summary.sent + summary.there))

    for trace in store.iter_traces(since=since):
        if trace.feedback:
            summary.traces += 1
            held += trace.feedback
        if len(held) >= _RUNS_AT_A_TIME:
            flush()
    flush()
    return summary


def _send_missing(
    langsmith: LangSmith,
    project: Project,
    entries: Sequence[Mapping[str, Any]],
    summary: PushSummary,
    extend_retention: bool,
) -> None:
    runs = sorted({str(entry["run_id"]) for entry in entries})
    there: set[str] = set()
    for some in pieces(runs, _RUNS_AT_A_TIME):
        for page in langsmith.feedback(project, run_ids=some):
            there.update(str(found.id) for found in page)
    for entry in entries:
        known = uuid_of(str(entry["id"]))
        if known in there:
            summary.there += 1
            continue
        try:
            send(langsmith, project, {**entry, "id": known}, extend_retention=extend_retention)
        except LangSmithRefusedError as error:
            if error.status != 404:
                raise
            summary.no_run += 1
        else:
            summary.sent += 1


def uuid_of(text: str) -> str:
    """The id as a UUID, which LangSmith needs; the same text gives the same."""
    try:
        return str(UUID(text))
    except ValueError:
        return str(uuid5(NAMESPACE_URL, f"xrouter:feedback:{text}"))
