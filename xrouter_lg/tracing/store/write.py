"""Rows into the database: upserts in few statements, and runs packed by trace."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Table, func, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.expression import Executable

from xrouter_lg.json_text import from_json, storable, to_json
from xrouter_lg.tracing.runs.facts import trace_facts
from xrouter_lg.tracing.runs.pack import pack, unpack
from xrouter_lg.tracing.store import schema

IDS_PER_STATEMENT = 500
"""SQLite of old took at most 999 parameters."""

_ROWS_PER_STATEMENT = 64
"""SQLite gives the interpreter away once per row of an ``executemany`` and gets it back 5 ms later
under a busy request thread; one statement for many rows keeps the writer ten times faster."""

_PACKED = ("tags", "inputs", "outputs", "extra", "events", "more")
"""Fields of a run that are JSON text in its row."""

_MERGED = {
    "started_at": "CASE WHEN excluded.started_at < traces.started_at"
    " THEN excluded.started_at ELSE traces.started_at END",
    "failed": "(excluded.failed OR traces.failed)",
    "hashed": "(excluded.hashed OR traces.hashed)",
    "sample_rate": "COALESCE(excluded.sample_rate, traces.sample_rate)",
}
"""How a trace's row takes in what later runs tell."""


class RunWriter:
    """Writes within the transaction of ``connection``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def runs(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert or replace runs by id, with what their traces are looked for by."""
        by_id = {row["id"]: row for row in rows}
        if not by_id:
            return
        old = self._places(by_id)
        of_trace: dict[str, list[Mapping[str, Any]]] = {}
        for row in by_id.values():
            of_trace.setdefault(row["trace_id"], []).append(row)
        ids = self._new_payload_ids(len(of_trace))
        packed: list[dict[str, Any]] = []
        slim: list[dict[str, Any]] = []
        for payload, group in zip(ids, of_trace.values(), strict=True):
            group.sort(key=lambda row: str(row["dotted_order"]))
            lines = "\n".join(map(_line, group))
            packed.append({"id": payload, "data": pack(lines)})
            slim += [{**row, "payload": payload, "line": n} for n, row in enumerate(group)]
        self._upsert(schema.payloads, packed)
        self._upsert(schema.runs, slim)
        self._forget_lines(old)
        traces, labels = trace_facts(by_id.values())
        self._upsert(schema.traces, traces)
        self._upsert(schema.labels, labels)

    def routes(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert or replace route rows by id; their ``record`` is JSON text."""
        self._upsert(schema.routes, [{**row, "record": pack(row["record"])} for row in rows])

    def feedback(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._upsert(schema.feedback, rows)

    def _places(self, ids: Iterable[str]) -> list[tuple[int, int]]:
        """Payload and line of the runs that are there already."""
        runs, found = schema.runs, []
        for some in pieces(ids):
            statement = select(runs.c.payload, runs.c.line).where(runs.c.id.in_(some))
            found += [(row[0], row[1]) for row in self._connection.execute(statement)]
        return found

    def _new_payload_ids(self, count: int) -> list[int]:
        if self._connection.dialect.name == "sqlite":  # whose transaction has the only writer
            last = self._connection.scalar(select(func.max(schema.payloads.c.id))) or 0
            return list(range(last + 1, last + 1 + count))
        numbers = text(
            "SELECT nextval(pg_get_serial_sequence('payloads', 'id')) FROM generate_series(1, :n)"
        )
        return [row[0] for row in self._connection.execute(numbers, {"n": count})]

    def _forget_lines(self, places: Iterable[tuple[int, int]]) -> None:
        """Empty the lines of replaced runs: what was stored of them must be gone."""
        of_payload: dict[int, set[int]] = {}
        for payload, line in places:
            of_payload.setdefault(payload, set()).add(line)
        table = schema.payloads
        gone: list[int] = []
        for payload, stale in of_payload.items():
            data = self._connection.scalar(select(table.c.data).where(table.c.id == payload))
            if data is None:
                continue
            lines = [
                b"" if number in stale else line
                for number, line in enumerate(unpack(data).split(b"\n"))
            ]
            if any(lines):
                self._upsert(table, [{"id": payload, "data": pack(b"\n".join(lines))}])
            else:
                gone.append(payload)
        for some in pieces(gone):
            self._connection.execute(table.delete().where(table.c.id.in_(some)))

    def _upsert(self, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
        if not rows:
            return
        names = [column.name for column in table.c]
        if self._connection.dialect.name == "sqlite":
            for start in range(0, len(rows), _ROWS_PER_STATEMENT):
                piece = rows[start : start + _ROWS_PER_STATEMENT]
                values = _values([row[name] for row in piece for name in names])
                self._connection.exec_driver_sql(_sqlite_upsert(table, len(piece)), values)
        else:
            given = [{name: _value(row[name]) for name in names} for row in rows]
            self._connection.execute(postgres_upsert(table), given)


def _values(given: list[Any]) -> tuple[Any, ...]:
    """Parameters that every database takes. Nearly always all of them are as they should be: one
    look at all the texts together is quicker than one at each."""
    texts = "".join([value for value in given if type(value) is str])
    if texts.isascii() and "\x00" not in texts:
        return tuple(given)
    return tuple(map(_value, given))


def _value(value: Any) -> Any:
    return storable(value) if type(value) is str else value


def pieces(items: Iterable[Any], size: int = IDS_PER_STATEMENT) -> Iterator[list[Any]]:
    """The items in lists of at most ``size``."""
    rest = iter(items)
    while piece := list(itertools.islice(rest, size)):
        yield piece


def _line(row: Mapping[str, Any]) -> str:
    """The bulk of a run as one line of JSON; see :func:`read_line`."""
    head = to_json([row["parent_run_id"], row["dotted_order"], row["session_name"], row["error"]])
    return f"{head[:-1]},{','.join([row.get(name) or 'null' for name in _PACKED])}]"


def read_line(line: bytes) -> dict[str, Any]:
    """The fields of a run that its payload holds, parsed."""
    fields = from_json(line)
    parent, order, session, error, tags, inputs, outputs, extra, events, more = fields
    return {
        "parent_run_id": parent,
        "dotted_order": order,
        "session_name": session,
        "error": error,
        "tags": tags or [],
        "inputs": {} if inputs is None else inputs,
        "outputs": outputs,
        "extra": {} if extra is None else extra,
        "events": events or [],
        **(more or {}),
    }


@functools.lru_cache(maxsize=512)
def _sqlite_upsert(table: Table, rows: int) -> str:
    names = [column.name for column in table.c]
    values = ", ".join([f"({', '.join('?' * len(names))})"] * rows)
    insert = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {values} "  # noqa: S608
    key = ", ".join(column.name for column in table.primary_key)
    changed = _changed(table)
    if not changed:
        return f"{insert}ON CONFLICT ({key}) DO NOTHING"
    replaced = ", ".join(f"{c.name} = {_MERGED.get(c.name, f'excluded.{c.name}')}" for c in changed)
    return f"{insert}ON CONFLICT ({key}) DO UPDATE SET {replaced}"


@functools.cache
def postgres_upsert(table: Table) -> Executable:
    """Insert a row, or replace the one with its key."""
    statement = postgresql.insert(table)
    key, changed = list(table.primary_key), _changed(table)
    if not changed:
        ignoring: Executable = statement.on_conflict_do_nothing(index_elements=key)
        return ignoring
    replaced = {
        c.name: text(_MERGED[c.name]) if c.name in _MERGED else statement.excluded[c.name]
        for c in changed
    }
    upsert: Executable = statement.on_conflict_do_update(index_elements=key, set_=replaced)
    return upsert


def _changed(table: Table) -> list[Column[Any]]:
    return [column for column in table.c if not column.primary_key]
