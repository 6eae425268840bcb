"""Tables of the trace store.

A run has a slim row in ``runs`` for looking up and counting, and its bulk (inputs, outputs,
metadata ...) in a packed payload. The runs of a trace that were written together share one
payload: the same messages stand in four or five of them, and packing them together keeps one copy.
"""

from __future__ import annotations

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.types import BigInteger

metadata = MetaData()

_Key = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only in a column that is called INTEGER."""

meta = Table("meta", metadata, Column("key", String, primary_key=True), Column("value", Text))

traces = Table(
    "traces",
    metadata,
    Column("id", String, primary_key=True),
    Column("started_at", String, nullable=False),
    Column("project", String, nullable=False),
    Column("failed", Boolean, nullable=False),
    Column("sample_rate", Float),
    Column("hashed", Boolean, nullable=False),
    Index("ix_traces_started", "started_at", "id"),
    sqlite_with_rowid=False,
)
"""One row per trace. ``failed``: one of its runs did. ``sample_rate``: the share of traces that its
recorder kept, NULL for all. ``hashed``: texts were replaced by hashes before they were stored."""

labels = Table(
    "labels",
    metadata,
    Column("trace_id", String, primary_key=True),
    Column("kind", String, primary_key=True),
    Column("value", String, primary_key=True),
    Index("ix_labels_value", "kind", "value"),
    sqlite_with_rowid=False,
)
"""What traces are looked for by: kinds ``thread``, ``user``, ``tag`` and ``model``. A trace may
have several of a kind."""

runs = Table(
    "runs",
    metadata,
    Column("id", String, primary_key=True),
    Column("trace_id", String, nullable=False),
    Column("name", Text, nullable=False),
    Column("run_type", String, nullable=False),
    Column("start_time", String, nullable=False),
    Column("end_time", String),
    Column("status", String, nullable=False),
    Column("prompt_tokens", Integer),
    Column("completion_tokens", Integer),
    Column("total_tokens", Integer),
    Column("payload", _Key, nullable=False),
    Column("line", Integer, nullable=False),
    Index("ix_runs_trace_id", "trace_id"),
    sqlite_with_rowid=False,
)
"""LangSmith's run schema; times as ISO 8601 in UTC. The other fields are in line ``line`` of the
payload."""

payloads = Table(
    "payloads",
    metadata,
    Column("id", _Key, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
"""Packed lines, one per run; the line of a run that was replaced is empty."""

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
    Column("record", LargeBinary, nullable=False),
    Index("ix_routes_created_at", "created_at"),
    Index("ix_routes_trace_id", "trace_id"),
    Index("ix_routes_route_at", "route", "created_at"),
    Index("ix_routes_policy_at", "policy", "policy_version", "created_at"),
    sqlite_with_rowid=False,
)
"""One row per routed request: the route record, packed, and what is queried of it in columns.
``cost_usd`` and its like are exact decimal strings; ``cost_usd_float`` is there to sort by."""

for _name, _when in (
    ("thread_id", "thread_id IS NOT NULL"),
    ("tenant", "tenant IS NOT NULL"),
    ("fallbacks", "fallbacks > 0"),
):
    _columns = (
        [routes.c.created_at] if _name == "fallbacks" else [routes.c[_name], routes.c.created_at]
    )
    Index(
        f"ix_routes_{_name}_at",
        *_columns,
        sqlite_where=text(_when),
        postgresql_where=text(_when),
    )

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
    Index("ix_feedback_key_score", "key", "score", "trace_id"),
)

cursors = Table(
    "cursors",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
    Column("updated_at", String, nullable=False),
)
"""How far an import has come: written in the same transaction as what it brought."""
