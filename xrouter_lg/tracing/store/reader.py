"""What a trace store holds, read: runs, routes, feedback, whole traces, and how many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Unpack

from langchain_core.messages import BaseMessage
from sqlalchemy import URL, Engine, func, select
from sqlalchemy.sql.expression import Executable

from xrouter_lg.errors import BriefRecordError
from xrouter_lg.route_record import RouteRecord
from xrouter_lg.tracing.runs.extract import RECORD_KEY
from xrouter_lg.tracing.runs.importing import utc_text
from xrouter_lg.tracing.runs.kept import KeptRecord
from xrouter_lg.tracing.store import connect, schema
from xrouter_lg.tracing.store.query import (
    RouteFilters,
    RouteRow,
    RunNode,
    build_tree,
    route_query,
    to_route_row,
)
from xrouter_lg.tracing.store.read import Trace, feedback_of, iter_traces, runs_of, snapshot
from xrouter_lg.tracing.store.write import pieces


class StoreReader:
    """The reading half of :class:`~xrouter_lg.tracing.store.trace_store.TraceStore`."""

    url: URL
    _engine: Engine

    def routes(self, **filters: Unpack[RouteFilters]) -> list[RouteRow]:
        """Route records, newest first; see :class:`RouteFilters`. ``limit`` defaults to all."""
        return [to_route_row(row) for row in self.rows(route_query(filters))]

    def record_of(self, message: BaseMessage) -> RouteRecord:
        """The whole record of an answer: its own in the process that made it, looked up for one
        that a checkpointer or another store gave back.

        Raises:
            BriefRecordError: the message is no routed answer, or its trace is not in this store.
        """
        kept: Mapping[str, Any] = message.response_metadata.get(RECORD_KEY) or {}
        if isinstance(kept, KeptRecord):
            return RouteRecord.from_dict(kept)
        trace_id = kept.get("trace_id")
        run_id = kept.get("run_id", trace_id)
        found = self.routes(trace_id=str(trace_id)) if trace_id is not None else ()
        for row in found:
            if row.record.run_id == run_id:
                return row.record
        raise BriefRecordError(
            f"no record of run {run_id!r} in trace {trace_id!r} is in {connect.shown(self.url)!r}; "
            "open the store that the recorder wrote to"
            if trace_id is not None
            else "the message has no route record of a trace: it is no routed answer, or it was "
            "made without a recorder and without LangSmith"
        )

    def runs(self, trace_id: str) -> list[dict[str, Any]]:
        """The runs of a trace as LangSmith-like dicts, parents before children."""
        with connect.store_errors(self.url, "read"), snapshot(self._engine) as connection:
            return runs_of(connection, [str(trace_id)])[str(trace_id)]

    def run_tree(self, trace_id: str) -> list[RunNode]:
        """The runs of a trace as trees: one root as a rule, more when the recorder was attached
        to several nodes of one request or a parent's row was lost."""
        return build_tree(self.runs(trace_id))

    def feedback(self, trace_id: str) -> list[dict[str, Any]]:
        """Feedback on a trace and its runs, oldest first."""
        with connect.store_errors(self.url, "read"), snapshot(self._engine) as connection:
            return feedback_of(connection, [str(trace_id)])[str(trace_id)]

    def iter_traces(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        project: str | None = None,
        filters: RouteFilters | None = None,
        batch: int = 200,
    ) -> Iterator[Trace]:
        """Whole traces by their start, oldest first: trace id, runs (parents first), feedback.

        ``since`` is inclusive, ``until`` exclusive. ``filters`` choose traces by their routes.
        Holds ``batch`` traces in memory at a time.
        What is written meanwhile may or may not be seen.
        """
        among = None
        if filters:
            among = route_query(filters).with_only_columns(schema.routes.c.trace_id)
        with connect.store_errors(self.url, "read"):
            yield from iter_traces(
                self._engine, since=since, until=until, project=project, among=among, batch=batch
            )

    def find(self, prefix: str, *, limit: int = 10) -> list[str]:
        """Ids of traces that begin with ``prefix``, or that hold a route whose id does."""
        traces, routes = schema.traces, schema.routes
        found: dict[str, None] = {}
        for column, trace in (
            (traces.c.id, traces.c.id.label("trace_id")),
            (routes.c.id, routes.c.trace_id),
        ):
            statement = (
                select(trace)
                .where(column.startswith(prefix, autoescape=True))
                .distinct()
                .limit(limit)
            )
            found.update(dict.fromkeys(row["trace_id"] for row in self.rows(statement)))
        return list(found)[:limit]

    def counts(self) -> dict[str, int]:
        """How many traces, runs, routes and feedback entries there are."""
        with connect.store_errors(self.url, "read"), self._engine.connect() as connection:
            counted: dict[str, int] = {}
            for table in (schema.traces, schema.runs, schema.routes, schema.feedback):
                total = connection.scalar(select(func.count()).select_from(table))
                counted[table.name] = total or 0
        return counted

    def count_traces(self, *, until: datetime | None = None) -> int:
        """How many traces started before ``until``; all without it."""
        query = select(func.count().label("n")).select_from(schema.traces)
        if until is not None:
            query = query.where(schema.traces.c.started_at < utc_text(until))
        return sum(row["n"] for row in self.rows(query))

    def count_stray_feedback(self) -> int:
        """How many feedback entries are on traces that are not here (yet)."""
        said = schema.feedback
        query = select(func.count().label("n")).where(
            said.c.trace_id.not_in(select(schema.traces.c.id))
        )
        return sum(row["n"] for row in self.rows(query))

    def hashed(self, trace_ids: Sequence[str]) -> int:
        """How many of the traces hold hashes instead of texts, so that they train nothing."""
        traces, found = schema.traces, 0
        for some in pieces(trace_ids):
            query = select(func.count().label("n")).where(traces.c.id.in_(some), traces.c.hashed)
            found += sum(row["n"] for row in self.rows(query))
        return found

    def rows(self, statement: Executable) -> Iterator[dict[str, Any]]:
        """Rows of a query on the tables of ``schema``, fetched in pieces: memory stays bounded."""
        with connect.store_errors(self.url, "read"), self._engine.connect() as connection:
            result = connection.execution_options(yield_per=500).execute(statement)
            names = [str(name) for name in result.keys()]  # noqa: SIM118  a result is no dict
            for row in result:
                yield dict(zip(names, row, strict=True))
