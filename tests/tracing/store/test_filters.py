"""Finding requests: by whom, about what, how they were judged, and without reading everything."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.dialects import postgresql, sqlite

from tests.tracing.routed import app_around, question, routed_graph
from xrouter_lg.tracing import Recorder, TraceStore
from xrouter_lg.tracing.store.query import RouteFilters, route_query


@pytest.fixture
def filled(recorder: Recorder, store: TraceStore) -> TraceStore:
    """Three requests that differ in everything that can be asked for."""

    async def fill() -> None:
        for name, tags in (("a", ["beta"]), ("b", []), ("c", ["beta", "vip"])):
            config = {"callbacks": [recorder], "tags": tags, "metadata": {"user_id": f"u-{name}"}}
            graph = app_around(routed_graph(thread_id=name, tenant=f"tenant-{name}"))
            await graph.ainvoke(question(), config)

    asyncio.run(fill())
    recorder.flush(10)
    for row in store.routes():
        score = {"a": 0.2, "b": 0.9, "c": None}[str(row.record.thread_id)]
        store.record_feedback(row.trace_id, "helpful", score)
        if row.record.thread_id == "a":
            store.record_feedback(row.trace_id, "fast", 1.0)
    return store


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"user": "u-b"}, "b"),
        ({"tenant": "tenant-c"}, "c"),
        ({"tag": "beta"}, "ac"),
        ({"tag": "vip"}, "c"),
        ({"tag": "seq:step:1"}, ""),
        ({"model": "worker-1"}, "abc"),
        ({"model": "another"}, ""),
        ({"feedback_key": "helpful"}, "abc"),
        ({"feedback_key": "fast"}, "a"),
        ({"feedback_key": "helpful", "min_score": 0.5}, "b"),
        ({"feedback_key": "helpful", "max_score": 0.5}, "a"),
        ({"min_score": 0.95}, "a"),
        ({"tag": "beta", "user": "u-a", "feedback_key": "fast"}, "a"),
    ],
)
def test_a_filter_finds_its_requests(
    filled: TraceStore, filters: dict[str, Any], expected: str
) -> None:
    assert sorted(str(row.record.thread_id) for row in filled.routes(**filters)) == list(expected)


USUAL: list[RouteFilters] = [
    {},
    {"since": datetime(2026, 11, 1, tzinfo=UTC)},
    {"thread_id": "t"},
    {"trace_id": "t"},
    {"tenant": "t"},
    {"route": "small"},
    {"policy": "knn", "policy_version": "3"},
    {"user": "jo"},
    {"tag": "beta"},
    {"model": "m"},
    {"feedback_key": "helpful", "min_score": 0.5},
    {"fallbacks": True},
    {"errors": True, "since": datetime(2026, 11, 1, tzinfo=UTC)},
]


def plan(store: TraceStore, sql: str) -> list[str]:
    with store._engine.connect() as connection:
        return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}")]


@pytest.mark.parametrize("filters", USUAL, ids=str)
def test_the_usual_questions_read_no_table_from_end_to_end(
    db: Path, store: TraceStore, filters: RouteFilters
) -> None:
    query = route_query({**filters, "limit": 50})
    sql = query.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True})
    steps = plan(store, str(sql))
    # In the order of an index, up to the limit, is no scan of the table.
    whole = [s for s in steps if s.startswith("SCAN") and "USING" not in s]
    assert whole == [], steps
    assert any("INDEX" in step or "PRIMARY KEY" in step for step in steps)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM runs WHERE trace_id IN ('a', 'b')",
        "SELECT data FROM payloads WHERE id IN (1, 2)",
        "SELECT id FROM traces WHERE started_at < 'x' ORDER BY started_at, id LIMIT 9",
        "SELECT trace_id FROM labels WHERE kind = 'user' AND value = 'jo'",
        "DELETE FROM labels WHERE trace_id IN ('a')",
        "SELECT * FROM feedback WHERE trace_id IN ('a')",
    ],
)
def test_reading_and_deleting_traces_search_an_index(db: Path, store: TraceStore, sql: str) -> None:
    assert all(step.startswith("SEARCH") for step in plan(store, sql))


@pytest.mark.parametrize("filters", USUAL, ids=str)
def test_the_usual_questions_compile_for_postgres(filters: RouteFilters) -> None:
    query = route_query({**filters, "limit": 50})
    assert "FROM routes" in str(query.compile(dialect=postgresql.dialect()))
