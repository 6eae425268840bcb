"""The numbered steps that bring an older store up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import Connection, delete, insert, inspect, select, text

from xrouter_lg.errors import StoreError
from xrouter_lg.json_text import shown
from xrouter_lg.tracing.runs.pack import pack
from xrouter_lg.tracing.store import schema
from xrouter_lg.tracing.store.write import RunWriter

_TRACES_AT_A_TIME = 200


def _add_cursors(connection: Connection) -> None:
    schema.cursors.create(connection, checkfirst=True)


def _pack_runs(connection: Connection) -> None:
    """Version 2 held a run's JSON in text columns of its row, and knew no ``traces``."""
    for name in ("runs", "routes"):
        connection.execute(text(f"ALTER TABLE {name} RENAME TO {name}_2"))
    schema.metadata.create_all(connection)
    for index_of in schema.feedback.indexes:
        index_of.create(connection, checkfirst=True)
    writer = RunWriter(connection)
    for rows in _by_trace(connection):
        writer.runs(rows)
    _copy_routes(connection)
    for name in ("runs_2", "routes_2"):
        connection.execute(text(f"DROP TABLE {name}"))


def _by_trace(connection: Connection) -> Iterator[list[dict[str, Any]]]:
    last = ""
    while True:
        page = "SELECT DISTINCT trace_id FROM runs_2 WHERE trace_id > :last ORDER BY 1 LIMIT :n"
        found = connection.execute(text(page), {"last": last, "n": _TRACES_AT_A_TIME})
        ids = [row[0] for row in found]
        if not ids:
            return
        held = "SELECT * FROM runs_2 WHERE trace_id > :last AND trace_id <= :end"
        rows = connection.execute(text(held), {"last": last, "end": ids[-1]}).mappings()
        yield [dict(row) for row in rows]
        last = ids[-1]


def _copy_routes(connection: Connection) -> None:
    last = ""
    while True:
        page = text("SELECT * FROM routes_2 WHERE id > :last ORDER BY id LIMIT 500")
        rows = [dict(row) for row in connection.execute(page, {"last": last}).mappings()]
        if not rows:
            return
        last = rows[-1]["id"]
        for row in rows:
            row["truncated"] = bool(row["truncated"])
            row["record"] = pack(row["record"])
        connection.execute(insert(schema.routes), rows)


MIGRATIONS: list[tuple[int, Callable[[Connection], None]]] = [(2, _add_cursors), (3, _pack_runs)]
"""Steps by the version that they lead to, oldest first. A new file gets today's tables at once and
none of the steps."""

SCHEMA_VERSION = MIGRATIONS[-1][0]

_LOCK_NUMBER = 7_203_114
"""Postgres advisory lock: two processes that start at once must not both migrate."""


def stored_version(connection: Connection) -> int:
    """The schema version of the file; 0 for a new one."""
    if not inspect(connection).has_table("meta"):
        return 0
    meta = schema.meta
    value = connection.scalar(select(meta.c.value).where(meta.c.key == "schema_version"))
    try:
        return int(value) if value else 0
    except ValueError:
        raise StoreError(
            f"the trace store's schema version is {shown(value)}, which is no number: the file was "
            "changed by other hands, or is damaged. Take a copy of it from before"
        ) from None


def migrate(connection: Connection) -> None:
    """Create the tables, or apply the steps that are missing, inside the caller's transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _LOCK_NUMBER})
    version = stored_version(connection)
    if version == 0:
        schema.metadata.create_all(connection)
        _set_version(connection, MIGRATIONS[-1][0])
        return
    for number, step in MIGRATIONS:
        if number > version:
            step(connection)
            _set_version(connection, number)


def _set_version(connection: Connection, number: int) -> None:
    meta = schema.meta
    connection.execute(delete(meta).where(meta.c.key == "schema_version"))
    connection.execute(insert(meta).values(key="schema_version", value=str(number)))
