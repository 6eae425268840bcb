"""The local trace store: runs, route records and feedback in SQLite or Postgres."""

from __future__ import annotations

import functools
import math
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Unpack

import orjson
from sqlalchemy import Connection, Table, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.expression import Executable

from xrouter_lg.errors import StoreError
from xrouter_lg.tracing import DEFAULT_STORE, schema
from xrouter_lg.tracing import engine as _engine
from xrouter_lg.tracing.query import (
    RouteFilters,
    RouteRow,
    RunNode,
    build_tree,
    feedback_dict,
    route_query,
    run_dict,
    to_route_row,
)

_ROWS_PER_STATEMENT = 64
"""SQLite gives the interpreter away once per row of an ``executemany`` and gets it back 5 ms later
under a busy request thread; one statement for many rows keeps the writer ten times faster."""


class TraceStore:
    """Runs, routes and feedback of one database.

    ``url`` is a path, a ``sqlite:///`` URL or a ``postgresql://`` URL (extra ``postgres``).
    SQLite runs in WAL mode: readers never wait for the recorder. Safe to use from several
    threads, and from several processes.

    Raises:
        StoreError: the store can't be opened; names the path, the cause and the fix.
    """

    def __init__(
        self,
        url: str | os.PathLike[str] = DEFAULT_STORE,
        *,
        create: bool = True,
        busy_timeout_s: float = 5.0,
    ) -> None:
        self.url = _engine.resolve_url(url)
        self._engine = _engine.open_engine(self.url, create=create, busy_timeout_s=busy_timeout_s)

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"TraceStore({_engine.shown(self.url)!r})"

    def close(self) -> None:
        """Close the connections; the store can't be used afterwards."""
        self._engine.dispose()

    # --- writing ---------------------------------------------------------------------------

    def write(
        self, runs: Sequence[Mapping[str, Any]], routes: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        """Insert or replace rows by id, all in one transaction."""
        with self._writing("write to") as connection:
            self._upsert(connection, schema.runs, runs)
            self._upsert(connection, schema.routes, routes)

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
        source: str = "api",
    ) -> str:
        """Attach a score to a request, or to one run of it; returns the feedback's id.

        The trace need not be stored yet. ``feedback_id`` makes it idempotent: the same id again
        replaces. ``value`` is any JSON value, ``correction`` e.g. ``{"route": "large"}``.

        Raises:
            StoreError: empty key, a score that is not finite, or a value that is not JSON.
        """
        if not key or not trace_id:
            raise StoreError(f"feedback needs a trace id and a key, got {trace_id!r} and {key!r}")
        if score is not None and not math.isfinite(score):
            raise StoreError(
                f"feedback {key!r} of trace {trace_id!r}: score {score!r} is not a finite number. "
                "Leave it None when there is no score."
            )
        new_id = feedback_id or str(uuid.uuid4())
        row = {
            "id": new_id,
            "run_id": str(run_id or trace_id),
            "trace_id": str(trace_id),
            "key": key,
            "score": None if score is None else float(score),
            "value": self._json(value, key),
            "correction": self._json(correction, key),
            "comment": comment,
            "source": source,
            "created_at": datetime.now(UTC).isoformat(timespec="microseconds"),
        }
        with self._writing("write feedback to") as connection:
            self._upsert(connection, schema.feedback, [row])
        return new_id

    @contextmanager
    def _writing(self, verb: str) -> Iterator[Connection]:
        with (
            _engine.store_errors(self.url, verb),
            _engine.write_transaction(self._engine) as connection,
        ):
            yield connection

    def _json(self, value: Any, key: str) -> str | None:
        if value is None:
            return None
        try:
            return orjson.dumps(value).decode()
        except TypeError as error:
            raise StoreError(
                f"feedback {key!r}: {value!r} can't be stored as JSON ({error}). "
                "Use numbers, strings, lists and dicts."
            ) from error

    def _upsert(
        self, connection: Connection, table: Table, rows: Sequence[Mapping[str, Any]]
    ) -> None:
        if not rows:
            return
        if self._engine.dialect.name == "sqlite":
            for start in range(0, len(rows), _ROWS_PER_STATEMENT):
                piece = rows[start : start + _ROWS_PER_STATEMENT]
                values = tuple(row[c.name] for row in piece for c in table.c)
                connection.exec_driver_sql(_sqlite_upsert(table, len(piece)), values)
        else:
            connection.execute(postgres_upsert(table), [dict(row) for row in rows])

    # --- reading ---------------------------------------------------------------------------

    def routes(self, **filters: Unpack[RouteFilters]) -> list[RouteRow]:
        """Route records, newest first; see :class:`RouteFilters`. ``limit`` defaults to all."""
        return [to_route_row(row) for row in self._rows(route_query(filters))]

    def runs(self, trace_id: str) -> list[dict[str, Any]]:
        """The runs of a trace as LangSmith-like dicts, parents before children."""
        statement = (
            select(schema.runs)
            .where(schema.runs.c.trace_id == str(trace_id))
            .order_by(schema.runs.c.dotted_order)
        )
        return [run_dict(row) for row in self._rows(statement)]

    def run_tree(self, trace_id: str) -> list[RunNode]:
        """The runs of a trace as trees: one root as a rule, more when the recorder was attached
        to several nodes of one request or a parent's row was lost."""
        return build_tree(self.runs(trace_id))

    def feedback(self, trace_id: str) -> list[dict[str, Any]]:
        """Feedback on a trace and its runs, oldest first."""
        table = schema.feedback
        statement = (
            select(table).where(table.c.trace_id == str(trace_id)).order_by(table.c.created_at)
        )
        return [feedback_dict(row) for row in self._rows(statement)]

    def find(self, prefix: str, *, limit: int = 10) -> list[str]:
        """Ids of traces that begin with ``prefix``, or that hold a route whose id does."""
        runs, routes = schema.runs, schema.routes
        found: dict[str, None] = {}
        for column, trace in (
            (runs.c.trace_id, runs.c.trace_id),
            (routes.c.id, routes.c.trace_id),
        ):
            statement = (
                select(trace)
                .where(column.startswith(prefix, autoescape=True))
                .distinct()
                .limit(limit)
            )
            found.update(dict.fromkeys(row["trace_id"] for row in self._rows(statement)))
        return list(found)[:limit]

    def counts(self) -> dict[str, int]:
        """How many traces, runs, routes and feedback entries there are."""
        with _engine.store_errors(self.url, "read"), self._engine.connect() as connection:
            trace_count = select(func.count(schema.runs.c.trace_id.distinct()))
            counted = {"traces": connection.scalar(trace_count) or 0}
            for table in (schema.runs, schema.routes, schema.feedback):
                total = connection.scalar(select(func.count()).select_from(table))
                counted[table.name] = total or 0
        return counted

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        routes_only: bool = False,
        **filters: Unpack[RouteFilters],
    ) -> int:
        """Write JSON lines to ``path``: runs, or with ``routes_only`` route records.

        Filters choose traces by their routes; without any, every run is exported. The file
        appears complete or not at all. Returns the number of lines.
        """
        target = Path(path)
        temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
        lines = self._route_lines(filters) if routes_only else self._run_lines(filters)
        count = 0
        try:
            with temporary.open("wb") as file:
                for line in lines:
                    file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
                    count += 1
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            raise StoreError(
                f"can't export to {str(target)!r}: {error.strerror or error}. "
                "Check that its folder exists, is writable and has space."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
        return count

    def _route_lines(self, filters: RouteFilters) -> Iterator[dict[str, Any]]:
        for row in self._rows(route_query(filters)):
            yield to_route_row(row).to_dict()

    def _run_lines(self, filters: RouteFilters) -> Iterator[dict[str, Any]]:
        runs = schema.runs
        statement = select(runs)
        if filters:
            chosen = route_query(filters).with_only_columns(schema.routes.c.trace_id)
            statement = statement.where(runs.c.trace_id.in_(chosen))
        for row in self._rows(statement.order_by(runs.c.start_time, runs.c.dotted_order)):
            yield run_dict(row)

    def _rows(self, statement: Executable) -> Iterator[dict[str, Any]]:
        """Rows of a query, fetched in pieces so that an export's memory stays bounded."""
        with _engine.store_errors(self.url, "read"), self._engine.connect() as connection:
            result = connection.execution_options(yield_per=500).execute(statement)
            names = [str(name) for name in result.keys()]  # noqa: SIM118  a result is no dict
            for row in result:
                yield dict(zip(names, row, strict=True))


@functools.lru_cache(maxsize=256)
def _sqlite_upsert(table: Table, rows: int) -> str:
    names = [column.name for column in table.c]
    values = ", ".join([f"({', '.join('?' * len(names))})"] * rows)
    replaced = ", ".join(f"{name} = excluded.{name}" for name in names if name != "id")
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {values} "  # noqa: S608
        f"ON CONFLICT (id) DO UPDATE SET {replaced}"
    )


def postgres_upsert(table: Table) -> Executable:
    """Insert a row, or replace the one with its id."""
    statement = postgresql.insert(table)
    upsert: Executable = statement.on_conflict_do_update(
        index_elements=[table.c.id],
        set_={c.name: statement.excluded[c.name] for c in table.c if c.name != "id"},
    )
    return upsert
