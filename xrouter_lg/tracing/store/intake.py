"""What an import does within its transaction: rows that elsewhere were others' to decide."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, or_, select

from xrouter_lg.json_text import to_json
from xrouter_lg.tracing.runs.importing import utc_text
from xrouter_lg.tracing.store import schema
from xrouter_lg.tracing.store.read import runs_of
from xrouter_lg.tracing.store.rows import RowMaker
from xrouter_lg.tracing.store.write import RunWriter, pieces

Cursor = tuple[str, Mapping[str, Any]]
"""A name and how far the import of that name has come."""


def take_runs(
    connection: Connection,
    rows: Mapping[str, dict[str, Any]],
    routes: Sequence[Mapping[str, Any]],
) -> dict[str, int]:
    """Rows of runs by id and of the routes among them; counts as ``TraceStore.import_runs``."""
    known = _by_id(connection, schema.runs.c.id, schema.runs.c.end_time, rows)
    fresh = {i: row for i, row in rows.items() if row["end_time"] or not known.get(i)}
    _keep_hidden(connection, [row for i, row in fresh.items() if known.get(i)])
    writer = RunWriter(connection)
    writer.runs(list(fresh.values()))
    kept = [route for route in routes if route["id"] in fresh]
    writer.routes(kept)
    inherited = _drop_inherited_routes(connection, [route["id"] for route in kept])
    return {
        "runs": len(rows),
        "new_runs": sum(run_id not in known for run_id in rows),
        "traces": len({row["trace_id"] for row in rows.values()}),
        "routes": len(kept) - inherited,
    }


def take_feedback(
    connection: Connection, entries: Mapping[str, dict[str, Any]], maker: RowMaker
) -> dict[str, int]:
    """Feedback by id; an entry without a trace gets that of its run."""
    orphans = [e["run_id"] for e in entries.values() if e["trace_id"] is None]
    traces = _by_id(connection, schema.runs.c.id, schema.runs.c.trace_id, orphans)
    for entry in entries.values():
        entry["trace_id"] = entry["trace_id"] or traces.get(entry["run_id"], entry["run_id"])
    known = _by_id(connection, schema.feedback.c.id, schema.feedback.c.key, entries)
    RunWriter(connection).feedback([maker.feedback_row(entry) for entry in entries.values()])
    new = sum(entry not in known for entry in entries)
    return {"feedback": len(entries), "new_feedback": new}


def set_cursor(connection: Connection, cursor: Cursor | None) -> None:
    if cursor is None:
        return
    name, value = cursor
    now = utc_text(datetime.now(UTC))
    table = schema.cursors
    connection.execute(table.delete().where(table.c.name == name))
    text = to_json(dict(value))
    connection.execute(table.insert().values(name=name, value=text, updated_at=now))


def _by_id(connection: Connection, key: Any, value: Any, wanted: Iterable[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for some in pieces(wanted):
        rows = connection.execute(select(key, value).where(key.in_(some)))
        found.update((row[0], row[1]) for row in rows)
    return found


def _keep_hidden(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Inputs and outputs that LangSmith was not given must not replace those that are here."""
    hidden = [row for row in rows if row["inputs"] == "{}" or row["outputs"] in (None, "{}")]
    here = runs_of(connection, sorted({row["trace_id"] for row in hidden}))
    known = {run["id"]: run for runs in here.values() for run in runs}
    for row in hidden:
        for side in ("inputs", "outputs"):
            if row[side] in (None, "{}") and (kept := known.get(row["id"], {}).get(side)):
                row[side] = to_json(kept)


def _drop_inherited_routes(connection: Connection, route_ids: Iterable[str]) -> int:
    """Runs below a collecting one inherit its metadata and may show its record again; parent
    and child may have come in either order."""
    routes, above = schema.routes, schema.routes.alias("above")
    dropped = 0
    for some in pieces(route_ids):
        inherited = (
            select(routes.c.id)
            .join(above, above.c.id == routes.c.run_id)
            .where(or_(routes.c.id.in_(some), above.c.id.in_(some)))
        )
        found = [row[0] for row in connection.execute(inherited)]
        if found:
            connection.execute(routes.delete().where(routes.c.id.in_(found)))
        dropped += len(found)
    return dropped
