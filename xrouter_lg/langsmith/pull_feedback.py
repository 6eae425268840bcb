"""Feedback of a project into the store: what is new, and what was changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from langsmith.schemas import Feedback

from xrouter_lg.langsmith.connection import LangSmith, Project
from xrouter_lg.langsmith.errors import LangSmithRefusedError
from xrouter_lg.langsmith.options import PullOptions
from xrouter_lg.langsmith.progress import PullSummary
from xrouter_lg.langsmith.runs import RunQuery
from xrouter_lg.langsmith.state import PullState, missing, with_interval
from xrouter_lg.tracing.store.trace_store import TraceStore
from xrouter_lg.tracing.store.write import pieces

EXACT_KEY = "xrouter_score"
"""Key of the exact score in a feedback's value that holds a value proper besides."""

_DECIMALS = 4
_RUNS_AT_A_TIME = 50
"""Run ids in one address line."""


class FeedbackPull:
    """Reads feedback by its creation, then changes of older feedback by key and time."""

    def __init__(
        self,
        langsmith: LangSmith,
        project: Project,
        store: TraceStore,
        state: PullState,
        cursor: str,
        options: PullOptions,
        *,
        only_known: bool,
    ) -> None:
        self._langsmith, self._project, self._store = langsmith, project, store
        self._state, self._cursor, self._options = state, cursor, options
        self._only_known = only_known
        """Whether feedback on traces that are not in the store is left out."""
        self._known: dict[str, bool] = {}
        self._seen: set[str] = set()

    def run(self, summary: PullSummary, said: Callable[[], None]) -> None:
        """Also feedback that is newer than the runs' window: it belongs to runs within."""
        now = datetime.now(UTC)
        settled = now - self._options.overlap
        for start, end in missing((self._options.since, now), self._state.said):
            for page in self._langsmith.feedback(self._project, since=start, until=end):
                self._keep(page, summary)
                said()
            self._state.said = with_interval(self._state.said, (start, min(end, settled)))
            self._keep((), summary)
        self._read_changes(settled, summary)

    def _read_changes(self, settled: datetime, summary: PullSummary) -> None:
        since = self._state.changed_until
        keys = [f'eq(feedback_key, "{key}")' for key in sorted(self._state.keys) if '"' not in key]
        if since is not None and keys and self._langsmith.api == "v2":
            query = RunQuery(
                project_id=self._project.id,
                start=self._options.since,
                filter=keys[0] if len(keys) == 1 else f"or({', '.join(keys)})",
                feedback_since=since,
                light=True,
            )
            try:
                changed = [str(run["id"]) for run in self._langsmith.runs(query)]
            except LangSmithRefusedError as error:
                summary.notes.append(f"changes of older feedback could not be asked for: {error}")
                changed = []
            for some in pieces(changed, _RUNS_AT_A_TIME):
                for page in self._langsmith.feedback(self._project, run_ids=some):
                    self._keep(page, summary)
        self._state.changed_until = settled
        self._keep((), summary)

    def _keep(self, entries: Iterable[Feedback], summary: PullSummary) -> None:
        rows = []
        for entry in entries:
            row = from_langsmith(entry.model_dump())
            if str(row["id"]) in self._seen:
                continue  # new and changed at once
            self._seen.add(str(row["id"]))
            # Feedback on a project as a whole is about no request.
            if row["run_id"] is not None and (not self._only_known or self._is_known(row)):
                rows.append(row)
                self._state.keys.add(row["key"])
        counts = self._store.import_feedback(
            rows,
            cursor=(self._cursor, self._state.to_dict()),
            redact=self._options.redact,
        )
        summary.feedback += counts["feedback"]
        summary.new_feedback += counts["new_feedback"]

    def _is_known(self, row: Mapping[str, Any]) -> bool:
        trace_id = str(row["trace_id"] or row["run_id"])
        if trace_id not in self._known:
            self._known[trace_id] = trace_id in self._store.find(trace_id, limit=1)
        return self._known[trace_id]


def to_langsmith(score: float | None, value: Any) -> tuple[float | None, Any]:
    """Score and value as LangSmith keeps them: the exact score goes into the value where rounding
    to four decimals would lose something."""
    if score is None or round(score, _DECIMALS) == score:
        return score, value
    exact = score if value is None else {EXACT_KEY: score, "value": value}
    return round(score, _DECIMALS), exact


def from_langsmith(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Feedback as it was before :func:`to_langsmith`."""
    row = dict(entry)
    value, score = row.get("value"), row.get("score")
    if isinstance(value, Mapping) and isinstance(value.get(EXACT_KEY), (int, float)):
        row.update(score=float(value[EXACT_KEY]), value=value.get("value"))
    elif _is_rounded(score, value):
        row.update(score=value, value=None)
    return row


def _is_rounded(score: Any, value: Any) -> bool:
    if not isinstance(value, float) or not isinstance(score, (int, float)) or value == score:
        return False
    return round(value, _DECIMALS) == round(score, _DECIMALS)
