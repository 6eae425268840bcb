"""Taking traces out again: for privacy requests at once and for good, for retention bit by bit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal

from sqlalchemy import Connection, Engine, Select, func, select, union

from xrouter_lg.errors import StoreError
from xrouter_lg.json_text import storable
from xrouter_lg.tracing.runs.importing import utc_text
from xrouter_lg.tracing.store import schema
from xrouter_lg.tracing.store.connect import write_transaction
from xrouter_lg.tracing.store.query import labelled
from xrouter_lg.tracing.store.write import pieces

TRACES_AT_A_TIME = 100
"""In one transaction: about 10 ms, which a waiting recorder does not notice."""

_PAUSE_S = 0.005
"""Between two transactions; SQLite has no queue, and who waits for the lock asks now and then."""

_PAGES_AT_A_TIME = 500

COUNTED = ("traces", "runs", "routes", "feedback")


By = Literal["trace", "thread", "user", "tenant"]


def chosen_ids(connection: Connection, by: By, value: str) -> list[str]:
    """Ids of the traces of a ``thread``, ``user`` or ``tenant``, or of one ``trace``."""
    routes = schema.routes
    if by == "trace":
        return [value]
    queries: list[Select[tuple[str]]] = []
    if by in ("thread", "user"):
        queries.append(labelled(by, value))
    if by == "thread":
        queries.append(select(routes.c.trace_id).where(routes.c.thread_id == storable(value)))
    if by == "tenant":
        queries.append(select(routes.c.trace_id).where(routes.c.tenant == storable(value)))
    return sorted(connection.scalars(union(*queries)))


def count(connection: Connection, trace_ids: Sequence[str]) -> dict[str, int]:
    """How many rows of each kind the traces have."""
    counts = dict.fromkeys(COUNTED, 0)
    for some in pieces(trace_ids):
        for name in COUNTED:
            table = schema.metadata.tables[name]
            key = table.c.id if name == "traces" else table.c.trace_id
            query = select(func.count()).select_from(table).where(key.in_(some))
            counts[name] += connection.scalar(query) or 0
    return counts


def delete(
    engine: Engine,
    trace_ids: Sequence[str],
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Delete the traces with all that belongs to them, some at a time; returns what was there."""
    total = Counter(dict.fromkeys(COUNTED, 0))
    for some in pieces(trace_ids, TRACES_AT_A_TIME):
        with write_transaction(engine) as connection:
            total.update(_delete(connection, some))
        if progress is not None:
            progress(len(some))
        time.sleep(_PAUSE_S)
    return dict(total)


def _delete(connection: Connection, trace_ids: Sequence[str]) -> dict[str, int]:
    """Returns what was there."""
    counts = count(connection, trace_ids)
    runs, payloads = schema.runs, schema.payloads
    held = select(runs.c.payload).where(runs.c.trace_id.in_(trace_ids)).distinct()
    for some in pieces(row[0] for row in connection.execute(held)):
        connection.execute(payloads.delete().where(payloads.c.id.in_(some)))
    for table in (runs, schema.routes, schema.feedback, schema.labels):
        connection.execute(table.delete().where(table.c.trace_id.in_(trace_ids)))
    traces = schema.traces
    connection.execute(traces.delete().where(traces.c.id.in_(trace_ids)))
    return counts


def prune(
    engine: Engine,
    *,
    before: datetime | None,
    max_bytes: int | None,
    limit: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, int]:
    """Delete the oldest traces: all that started before ``before``, then as many as it takes to
    have at most ``max_bytes`` in use; ``limit`` traces at most."""
    total = Counter(dict.fromkeys(COUNTED, 0))
    while limit is None or total["traces"] < limit:
        with write_transaction(engine) as connection:
            left = TRACES_AT_A_TIME if limit is None else limit - total["traces"]
            ids = _oldest(connection, before, max_bytes, min(TRACES_AT_A_TIME, left))
            if ids:
                total.update(_delete(connection, ids))
        if not ids:
            break
        _give_back(engine)
        if progress is not None:
            progress(len(ids))
        time.sleep(_PAUSE_S)
    while total["traces"] and limit is None and _give_back(engine):
        time.sleep(_PAUSE_S)
    return dict(total)


def used_bytes(connection: Connection) -> int:
    """What the database's content takes on disk; free pages don't count.

    Raises:
        StoreError: not SQLite.
    """
    if connection.dialect.name != "sqlite":
        raise StoreError(
            "a size limit needs a SQLite store; a Postgres server frees its space in its own time. "
            "Prune by age there."
        )
    pages, free, size = (
        connection.exec_driver_sql(f"PRAGMA {name}").scalar() or 0
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _oldest(
    connection: Connection, before: datetime | None, max_bytes: int | None, most: int
) -> list[str]:
    traces = schema.traces
    oldest = select(traces.c.id).order_by(traces.c.started_at, traces.c.id)
    if before is not None:
        aged = oldest.where(traces.c.started_at < utc_text(before)).limit(most)
        ids = [row[0] for row in connection.execute(aged)]
        if ids:
            return ids
    if max_bytes is None:
        return []
    used = used_bytes(connection)
    if used <= max_bytes:
        return []
    there = connection.scalar(select(func.count()).select_from(traces)) or 0
    # In proportion, so that the last step does not take more than it must.
    share = max(1, int(there * (used - max_bytes) / used))
    return [row[0] for row in connection.execute(oldest.limit(min(most, share)))]


def _give_back(engine: Engine) -> bool:
    """Return some freed pages to the disk: few at a time, so that nobody waits long. False when
    there was none, or the file can't: one that an early version made, until it is compacted."""
    if engine.dialect.name != "sqlite":
        return False
    with write_transaction(engine) as connection:
        before = connection.exec_driver_sql("PRAGMA freelist_count").scalar() or 0
        cursor = connection.connection.cursor()
        # A page for each row that is asked for, though it has no columns.
        cursor.execute(f"PRAGMA incremental_vacuum({_PAGES_AT_A_TIME})")
        cursor.fetchall()
        cursor.close()
        return bool(before > (connection.exec_driver_sql("PRAGMA freelist_count").scalar() or 0))
