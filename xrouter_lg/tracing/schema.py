"""Tables of the local store, and the numbered steps that bring an older file up to date."""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    Float,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    func,
    insert,
    inspect,
    select,
    text,
    update,
)

metadata = MetaData()

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", Text))

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("trace_id", String, nullable=False),
    Column("parent_run_id", String),
    Column("dotted_order", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("run_type", String, nullable=False),
    Column("start_time", String, nullable=False),
    Column("end_time", String),
    Column("status", String, nullable=False),
    Column("error", Text),
    Column("tags", Text),
    Column("inputs", Text),
    Column("outputs", Text),
    Column("extra", Text),
    Column("events", Text),
    Column("session_name", String, nullable=False),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("total_tokens", Integer),
    Index("ix_runs_trace", "trace_id"),
    Index("ix_runs_start", "start_time"),
)
"""LangSmith's run schema; JSON as text, times as ISO 8601 in UTC."""

routes = Table(
    "routes",
    metadata,
    Column("id", String, primary_key=True),
    Column("run_id", String),
    Column("trace_id", String, nullable=False),
    Column("created_at", String, nullable=False),
    Column("project", String, nullable=False),
    Column("route", String),
    Column("policy", String, nullable=False),
    Column("policy_version", String, nullable=False),
    Column("prompt_hash", String),
    Column("pool_fingerprint", String, nullable=False),
    Column("cost_weight", Float, nullable=False),
    Column("propensity", Float),
    Column("cost_usd", String),
    Column("router_cost_usd", String),
    Column("worker_cost_usd", String),
    Column("cost_usd_float", Float),
    Column("input_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("latency_s", Float, nullable=False),
    Column("turns", Integer, nullable=False),
    Column("truncated", Boolean, nullable=False),
    Column("fallbacks", Integer, nullable=False),
    Column("thread_id", String),
    Column("tenant", String),
    Column("record", Text, nullable=False),
    Index("ix_routes_created", "created_at"),
    Index("ix_routes_route", "route"),
    Index("ix_routes_trace", "trace_id"),
    Index("ix_routes_thread", "thread_id"),
    Index("ix_routes_policy_version", "policy_version"),
)
"""One row per routed request: the route record, its queried fields in columns of their own.
``cost_usd`` and its like are exact decimal strings; ``cost_usd_float`` is there to sort by."""

feedback = Table(
    "feedback",
    metadata,
    Column("id", String, primary_key=True),
    Column("run_id", String, nullable=False),
    Column("trace_id", String, nullable=False),
    Column("key", String, nullable=False),
    Column("score", Float),
    Column("value", Text),
    Column("correction", Text),
    Column("comment", Text),
    Column("source", String, nullable=False),
    Column("created_at", String, nullable=False),
    Index("ix_feedback_run_key", "run_id", "key"),
    Index("ix_feedback_trace", "trace_id"),
)


def _create_all(connection: Connection) -> None:
    metadata.create_all(connection)


MIGRATIONS: list[tuple[int, Callable[[Connection], None]]] = [(1, _create_all)]
"""Numbered steps, oldest first. A later step alters what the earlier ones made; because the first
one creates today's tables, a step after it must do nothing where its column is already there."""

SCHEMA_VERSION = MIGRATIONS[-1][0]

_LOCK_NUMBER = 7_203_114
"""Postgres advisory lock: two processes that start at once must not both migrate."""


def stored_version(connection: Connection) -> int:
    """The schema version of the file; 0 for a new one."""
    if not inspect(connection).has_table("meta"):
        return 0
    value = connection.scalar(select(meta.c.value).where(meta.c.key == "schema_version"))
    return int(value) if value else 0


def migrate(connection: Connection) -> None:
    """Apply the steps that are missing, inside the caller's transaction."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:n)"), {"n": _LOCK_NUMBER})
    version = stored_version(connection)
    for number, step in MIGRATIONS:
        if number > version:
            step(connection)
            _set_version(connection, number)


def _set_version(connection: Connection, number: int) -> None:
    meta.create(connection, checkfirst=True)
    known = connection.scalar(
        select(func.count()).select_from(meta).where(meta.c.key == "schema_version")
    )
    if known:
        statement = update(meta).where(meta.c.key == "schema_version").values(value=str(number))
        connection.execute(statement)
    else:
        connection.execute(insert(meta).values(key="schema_version", value=str(number)))
