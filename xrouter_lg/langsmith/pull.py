"""Pull: traces and feedback of a LangSmith project into the local store.

Incremental, resumable and idempotent. Time is read in slices, oldest first; the rows of a slice
and the mark of how far it got are one transaction. After a kill the next pull goes on from the
mark. The last ``overlap`` before the present is read again each time, for runs that arrive late;
traces that were not finished are fetched again by id until they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice

from xrouter_lg.errors import StoreError
from xrouter_lg.langsmith.connection import LangSmith, Project
from xrouter_lg.langsmith.costs import CostAudit
from xrouter_lg.langsmith.errors import (
    HiddenInputsError,
    LangSmithRefusedError,
    RetentionError,
    UnreadableAnswerError,
)
from xrouter_lg.langsmith.options import PullOptions
from xrouter_lg.langsmith.progress import OnProgress, Progress, PullSummary
from xrouter_lg.langsmith.pull_feedback import FeedbackPull
from xrouter_lg.langsmith.runs import RunQuery, any_of
from xrouter_lg.langsmith.state import (
    Interval,
    PullState,
    cursor_name,
    missing,
    with_interval,
    without,
)
from xrouter_lg.langsmith.traces import SKEW, Assembler, Run, is_open, moment, trace_start
from xrouter_lg.tracing.runs.importing import plain_run
from xrouter_lg.tracing.store.trace_store import TraceStore
from xrouter_lg.tracing.store.write import pieces

ROUTER_RUN = "xrouter"
"""Name of the run that a router leaves in a trace."""

BASE_RETENTION = timedelta(days=14)
"""How long LangSmith keeps a trace that nothing upgraded."""

_WIDTH = timedelta(hours=1)
_NARROWEST, _WIDEST = timedelta(milliseconds=250), timedelta(days=7)
_GIVE_UP = timedelta(days=2)
_FETCHED_TOGETHER = 50


def pull(
    project: str,
    store: TraceStore,
    options: PullOptions,
    *,
    langsmith: LangSmith,
    on_progress: OnProgress | None = None,
) -> PullSummary:
    """Traces and feedback of ``project`` (name or id) into ``store``.

    Raises:
        ProjectNotFoundError, AccessDeniedError, UnreachableError, LangSmithRefusedError: see their
            docstrings; what was finished is kept.
        HiddenInputsError: every trace came without inputs, or without outputs.
        UnreadableAnswerError: no run can be read, or the pages never end.
        RetentionError: nothing was there, and the window is older than what LangSmith keeps.
        StoreError: the store can't be written.
    """
    return _Pull(langsmith.project(project), store, options, langsmith, on_progress).run()


class _Pull:
    def __init__(
        self,
        project: Project,
        store: TraceStore,
        options: PullOptions,
        langsmith: LangSmith,
        on_progress: OnProgress | None,
    ) -> None:
        self._now = datetime.now(UTC)
        until = min(options.until or self._now, self._now)
        if options.since >= until:
            raise LangSmithRefusedError(
                f"--since {options.since:%Y-%m-%d %H:%M} is not before --until "
                f"{until:%Y-%m-%d %H:%M} (UTC)"
            )
        self._project, self._store = project, store
        self._options = dataclasses.replace(options, until=until)
        self._langsmith, self._on_progress = langsmith, on_progress
        self._window = (options.since, until)
        self._cursor = cursor_name(project.id, options.tags, options.routed)
        self._state = PullState.from_dict(store.cursor(self._cursor))
        self._filter = any_of(options.tags, ROUTER_RUN if options.routed else None)
        self._audit = CostAudit(options.pool)
        self.summary = PullSummary(
            project=project.name,
            project_id=project.id,
            since=options.since,
            until=until,
            costs=self._audit,
        )
        self._share = 0.0
        self._requests = langsmith.requests

    def run(self) -> PullSummary:
        listener, self._langsmith.patience.on_wait = self._langsmith.patience.on_wait, self._waits
        try:
            if self._options.full:
                self._state.done = without(self._state.done, self._window)
                self._state.said = without(self._state.said, (self._window[0], self._now))
            self._refresh_open()
            gaps = missing(self._window, self._state.done)
            self.summary.up_to_date = all(
                end - start <= 2 * self._options.overlap for start, end in gaps
            )
            total = sum((end - start for start, end in gaps), timedelta()) or timedelta(seconds=1)
            read = timedelta()
            for gap in gaps:
                self._scan(gap, read, total)
                read += gap[1] - gap[0]
            self._share = 1.0
            FeedbackPull(
                self._langsmith,
                self._project,
                self._store,
                self._state,
                self._cursor,
                self._options,
                only_known=self._filter is not None,
            ).run(self.summary, self._said)
        finally:
            self._langsmith.patience.on_wait = listener
            self.summary.api = self._langsmith.api
            self.summary.requests = self._langsmith.requests - self._requests
            self.summary.open_traces = len(self._state.open)
        self._judge()
        return self.summary

    # --- time, slice by slice --------------------------------------------------------------

    def _scan(self, gap: Interval, read: timedelta, total: timedelta) -> None:
        start, end = gap
        reach = max(end, min(end + SKEW, self._now))
        assembler = Assembler(end, reach, self._known)
        known = self._state.width_s
        at, width = start, _WIDTH if known is None else timedelta(seconds=known)
        size = self._langsmith.page_size
        while at < reach:
            upper = min(at + width, reach)
            runs, all_of_them = self._slice(at, upper, may_stop=width > _NARROWEST)
            if not all_of_them:
                width = max(min(width / 4, _width_for(runs, upper, 2 * size)), _NARROWEST)
                self._state.width_s = width.total_seconds()
                self._keep({})
                continue
            assembler.add(runs)
            settled = assembler.settle(upper)
            for some in pieces(settled.fetch.items(), _FETCHED_TOGETHER):
                self._keep({trace: self._trace(trace, began) for trace, began in some})
            safe = min(assembler.safe_until(upper), end, self._now - self._options.overlap)
            self._state.done = with_interval(self._state.done, (start, safe))
            wished = width * (2.0 * size / max(1, len(runs)))
            width = min(max(wished, width / 4, _NARROWEST), width * 4, _WIDEST)
            self._state.width_s = width.total_seconds() if upper < reach else None
            self._keep(settled.traces)
            self._share = min(1.0, (read + upper - start) / total)
            self._said()
            at = upper

    def _slice(self, start: datetime, end: datetime, *, may_stop: bool) -> tuple[list[Run], bool]:
        """Runs that started in [start, end), and whether these are all. Of a slice that is too
        full, only the first pages are read."""
        query = RunQuery(
            project_id=self._project.id, start=start, end=end, tree_filter=self._filter
        )
        runs: list[Run] = []
        for page in self._langsmith.pages(query):
            if may_stop and len(runs) >= 4 * self._langsmith.page_size:
                return runs, False
            # The servers' bounds may be inclusive: one slice must not see the next one's runs.
            runs += [run for run in page if start <= moment(run["start_time"]) < end]
        return runs, True

    def _trace(self, trace_id: str, began: datetime) -> list[Run]:
        query = RunQuery(
            project_id=self._project.id, start=began - timedelta(days=1), trace_id=trace_id
        )
        return self._langsmith.runs(query)

    def _known(self, trace_id: str) -> bool:
        return trace_id in self._store.find(trace_id, limit=1)

    def _refresh_open(self) -> None:
        """Fetch again what was not finished when it was last read."""
        for some in pieces(sorted(self._state.open.items()), _FETCHED_TOGETHER):
            fresh = {trace_id: self._trace(trace_id, began) for trace_id, began in some}
            for trace_id, runs in fresh.items():
                if not runs:  # deleted there
                    del self._state.open[trace_id]
            self._keep(fresh)

    # --- into the store --------------------------------------------------------------------

    def _keep(self, traces: Mapping[str, list[Run]]) -> None:
        """Store whole traces and the state, both or neither."""
        runs = [run for trace in traces.values() for run in trace]
        for trace_id, own in traces.items():
            self._state.open.pop(trace_id, None)
            if own and is_open(own):
                began = min(map(trace_start, own))
                if began >= self._now - _GIVE_UP:
                    self._state.open[trace_id] = began
                else:
                    self.summary.given_up += 1
        counts = self._stored(runs)
        for name in ("traces", "runs", "new_runs", "routes"):
            setattr(self.summary, name, getattr(self.summary, name) + counts[name])
        for own in traces.values():
            self._note(own)

    def _stored(self, runs: list[Run]) -> Mapping[str, int]:
        try:
            return self._import(runs)
        except StoreError:
            good = [run for run in runs if self._is_storable(run)]
            if len(good) == len(runs):
                raise
            return self._import(good)

    def _import(self, runs: list[Run]) -> Mapping[str, int]:
        return self._store.import_runs(
            runs,
            project=self._project.name,
            cursor=(self._cursor, self._state.to_dict()),
            redact=self._options.redact,
        )

    def _is_storable(self, run: Run) -> bool:
        try:
            plain_run(run, self._project.name)
        except StoreError as error:
            self._langsmith.left_out[str(run["id"])] = str(error)
            return False
        return True

    def _note(self, runs: Sequence[Run]) -> None:
        """What the summary tells about a trace that is now stored."""
        summary = self.summary
        for run in runs:
            self._audit.add(run)
        summary.hidden_inputs += bool(runs) and not any(run.get("inputs") for run in runs)
        finished = [run for run in runs if run.get("end_time") and not run.get("error")]
        summary.hidden_outputs += bool(finished) and not any(r.get("outputs") for r in finished)
        began = min((trace_start(run) for run in runs), default=None)
        if began is not None and (summary.oldest is None or began < summary.oldest):
            summary.oldest = began

    # --- telling ---------------------------------------------------------------------------

    def _said(self, note: str = "") -> None:
        if self._on_progress is not None:
            done = self.summary
            self._on_progress(Progress(self._share, done.traces, done.runs, done.feedback, note))

    def _waits(self, seconds: float, why: str) -> None:
        self.summary.waited_s += seconds
        self._said(f"{why}: waiting {seconds:.0f} s")

    def _judge(self) -> None:
        """Say what is odd about the result; raise where it is of no use."""
        summary = self.summary
        where = f"project {summary.project!r}"
        if left_out := self._langsmith.left_out:
            summary.left_out = len(left_out)
            told = "; ".join(f"run {run_id}: {why}" for run_id, why in islice(left_out.items(), 3))
            said = f"{len(left_out)} runs can't be read and were left out: {told}"
            if not summary.traces:
                raise UnreadableAnswerError(f"{where} holds no run that can be read. {said}")
            summary.notes.append(said)
        asked = self._now - summary.since
        if not summary.traces and not summary.up_to_date and asked > BASE_RETENTION:
            raise RetentionError(
                f"{where} has no trace between {summary.since:%Y-%m-%d} and "
                f"{summary.until:%Y-%m-%d}"
                + (" that passes the filter" if self._filter else "")
                + f". LangSmith deletes base traces after {BASE_RETENTION.days} days, and --since "
                f"asked for {asked.days}. Pull at least weekly from now on (the local store keeps "
                "everything), ask for a shorter time, or read a bulk export: "
                "xrouter traces import FOLDER."
            )
        for side, count in (("inputs", summary.hidden_inputs), ("outputs", summary.hidden_outputs)):
            if not count:
                continue
            cure = (
                f"They were hidden before they were sent: unset LANGSMITH_HIDE_{side.upper()} and "
                f"hide_{side}= in the app, and redact with a function instead "
                "(xrouter_lg.tracing.record.langsmith.langsmith_client(redact=...))."
            )
            if count == summary.traces:
                raise HiddenInputsError(
                    f"all {count} traces of {where} came without {side}: there is nothing to train "
                    f"on. {cure} Costs and tokens are in the store."
                )
            summary.notes.append(
                f"{count} of {summary.traces} traces came without {side} and train nothing. {cure}"
            )
        if summary.oldest is not None and asked > BASE_RETENTION:
            lacking = summary.oldest - summary.since
            if lacking > timedelta(days=1) and not self._options.tags:
                summary.notes.append(
                    f"nothing before {summary.oldest:%Y-%m-%d}: base traces are deleted after "
                    f"{BASE_RETENTION.days} days."
                )
        if summary.given_up:
            summary.notes.append(
                f"{summary.given_up} traces never finished in {_GIVE_UP.days} days and are not "
                "read again."
            )


def _width_for(runs: Sequence[Run], end: datetime, wanted: int) -> timedelta:
    """How wide a slice would hold ``wanted`` runs, as far as the newest ones tell."""
    span = end - min(moment(run["start_time"]) for run in runs)
    return span * (wanted / len(runs))
