"""A store's traces on their way out to files, and in from anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.sql.expression import Executable

from xrouter_lg.errors import StoreError
from xrouter_lg.tracing.store import schema
from xrouter_lg.tracing.store import trace_files as files
from xrouter_lg.tracing.store.query import RouteFilters, feedback_dict, route_query, to_route_row
from xrouter_lg.tracing.store.read import Trace
from xrouter_lg.tracing.store.write import pieces

_RUNS_PER_IMPORT = 2000


class Source(Protocol):
    """What is read of a store."""

    def rows(self, statement: Executable) -> Iterator[dict[str, Any]]: ...

    def iter_traces(self, *, filters: RouteFilters | None) -> Iterator[Trace]: ...


def export(
    store: Source, target: Path, format: files.Format, routes_only: bool, filters: RouteFilters
) -> dict[str, int]:
    """See ``TraceStore.export``."""
    if routes_only:
        if format != "jsonl":
            raise StoreError("route records alone are exported as JSON lines only")
        rows = (to_route_row(row).to_dict() for row in store.rows(route_query(filters)))
        return files.write_jsonl(target, (("routes", row) for row in rows))
    if format == "parquet":
        sources = {
            "runs": lambda: _runs(store, filters),
            "feedback": lambda: _feedback(store, filters),
            "routes": lambda: map(_flat_route, store.rows(route_query(filters))),
        }
        return files.write_parquet(target, sources)
    parts: Iterator[files.Part] = itertools.chain(
        (("runs", run) for run in _runs(store, filters)),
        (("feedback", entry) for entry in _feedback(store, filters)),
    )
    return files.write_jsonl(target, parts)


def take_in(
    parts: Iterator[files.Part],
    take_runs: Callable[[list[Any]], Mapping[str, int]],
    take_feedback: Callable[[list[Any]], Mapping[str, int]],
    progress: Callable[[int], None] | None,
) -> dict[str, int]:
    """Runs and feedback, some thousands to a transaction; the sums of the counts."""
    total: dict[str, int] = {}
    for piece in pieces(parts, _RUNS_PER_IMPORT):
        runs = [fields for kind, fields in piece if kind == "runs"]
        said = [fields for kind, fields in piece if kind == "feedback"]
        for counts in (
            take_runs(runs) if runs else {},
            take_feedback(said) if said else {},
        ):
            for name, count in counts.items():
                if name != "traces":  # one may stand in several pieces
                    total[name] = total.get(name, 0) + count
        if progress is not None:
            progress(len(runs))
    return total


def _runs(store: Source, filters: RouteFilters) -> Iterator[dict[str, Any]]:
    for trace in store.iter_traces(filters=filters):
        yield from trace.runs


def _feedback(store: Source, filters: RouteFilters) -> Iterator[dict[str, Any]]:
    """Without filters that on traces which are not (or not yet) here too."""
    table = schema.feedback
    statement = select(table).order_by(table.c.created_at, table.c.id)
    if filters:
        chosen = route_query(filters).with_only_columns(schema.routes.c.trace_id)
        statement = statement.where(table.c.trace_id.in_(chosen))
    return map(feedback_dict, store.rows(statement))


def _flat_route(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "record": to_route_row(row).record.to_dict()}
