"""Rows back into whole runs and traces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Select, or_, select

from xrouter_lg.tracing.runs.importing import utc_text
from xrouter_lg.tracing.runs.pack import unpack
from xrouter_lg.tracing.store import schema
from xrouter_lg.tracing.store.query import as_written, feedback_dict
from xrouter_lg.tracing.store.write import pieces, read_line


class Trace(NamedTuple):
    """A whole trace; its runs parents first."""

    id: str
    runs: list[dict[str, Any]]
    feedback: list[dict[str, Any]]


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection whose reads all see the same moment: a run's row and its payload belong
    together. SQLite reads so anyway."""
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


def runs_of(connection: Connection, trace_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The runs of the traces, parents before children; a trace that is not there has none."""
    runs = schema.runs
    found: dict[str, list[dict[str, Any]]] = {trace_id: [] for trace_id in trace_ids}
    for some in pieces(trace_ids):
        rows = list(connection.execute(select(runs).where(runs.c.trace_id.in_(some))).mappings())
        with as_written("a payload"):
            lines = _lines(connection, {row["payload"] for row in rows})
        for row in rows:
            run = {name: row[name] for name in _SLIM}
            with as_written(f"run {row['id']!r}"):
                run.update(read_line(lines[row["payload"]][row["line"]]))
            found[row["trace_id"]].append(run)
    for listed in found.values():
        listed.sort(key=lambda run: str(run["dotted_order"]))
    return found


_SLIM = [str(c.name) for c in schema.runs.c if c.name not in ("payload", "line")]


def _lines(connection: Connection, payload_ids: Iterable[int]) -> dict[int, list[bytes]]:
    table = schema.payloads
    found: dict[int, list[bytes]] = {}
    for some in pieces(sorted(payload_ids)):
        statement = select(table.c.id, table.c.data).where(table.c.id.in_(some))
        for key, data in connection.execute(statement):
            found[key] = unpack(data).split(b"\n")
    return found


def feedback_of(
    connection: Connection, trace_ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Feedback on the traces and their runs, oldest first."""
    table = schema.feedback
    found: dict[str, list[dict[str, Any]]] = {trace_id: [] for trace_id in trace_ids}
    for some in pieces(trace_ids):
        statement = (
            select(table).where(table.c.trace_id.in_(some)).order_by(table.c.created_at, table.c.id)
        )
        for row in connection.execute(statement).mappings():
            with as_written(f"feedback {row['id']!r}"):
                found[row["trace_id"]].append(feedback_dict(dict(row)))
    return found


def iter_traces(
    engine: Engine,
    *,
    since: datetime | None,
    until: datetime | None,
    project: str | None,
    among: Select[Any] | None,
    batch: int,
) -> Iterator[Trace]:
    """Traces by their start, oldest first, ``batch`` at a time. No transaction stays open
    between two batches, so a long reading holds nobody up. ``among`` is a query of ids."""
    traces = schema.traces
    last: tuple[str, str] | None = None
    while True:
        page = select(traces.c.started_at, traces.c.id).order_by(traces.c.started_at, traces.c.id)
        if last is not None:
            # The first condition is the second's consequence, in a form that finds the index.
            page = page.where(
                traces.c.started_at >= last[0],
                or_(traces.c.started_at > last[0], traces.c.id > last[1]),
            )
        if since is not None:
            page = page.where(traces.c.started_at >= utc_text(since))
        if until is not None:
            page = page.where(traces.c.started_at < utc_text(until))
        if project is not None:
            page = page.where(traces.c.project == project)
        if among is not None:
            page = page.where(traces.c.id.in_(among))
        with snapshot(engine) as connection:
            found = [(row[0], row[1]) for row in connection.execute(page.limit(batch))]
            ids = [trace_id for _, trace_id in found]
            runs, feedback = runs_of(connection, ids), feedback_of(connection, ids)
        for trace_id in ids:
            yield Trace(trace_id, runs.pop(trace_id), feedback.pop(trace_id))
        if len(found) < batch:
            return
        last = found[-1]
