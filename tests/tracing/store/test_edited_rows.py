"""Rows that other hands have changed: a StoreError that names them, whoever reads."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.support.apps import scripted
from xrouter_lg import ChatXRouter, ModelPool, Recorder, TraceStore
from xrouter_lg.errors import StoreError
from xrouter_lg.langsmith.state import PullState


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with a routed request, feedback on it, and a cursor."""
    with Recorder(tmp_path / "traces.db") as recorder:
        ChatXRouter(ModelPool([scripted("small")]), traces=recorder).invoke("Hi")
        assert recorder.flush(10)
        (trace_id,) = recorder.store.find("", limit=2)
        recorder.store.record_feedback(trace_id, "liked", 1.0, value="yes")
        recorder.store.import_runs([], cursor=("pull", {"done": []}))
    return tmp_path / "traces.db"


def edited(path: Path, table: str, column: str, value: Any) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        changed = connection.execute(f"update {table} set {column} = ?", (value,))
        assert changed.rowcount > 0


def read(path: Path) -> None:
    with TraceStore(path) as store:
        for trace in store.iter_traces():
            store.feedback(trace.id)
        store.routes()
        PullState.from_dict(store.cursor("pull"))


def test_the_store_that_was_not_touched_is_read(path: Path) -> None:
    read(path)


@pytest.mark.parametrize("value", ["x", "[" * 3_000, b"\xff\xfe", ""])
@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("feedback", "value"),
        ("feedback", "correction"),
        ("payloads", "data"),
        ("routes", "record"),
        ("cursors", "value"),
    ],
)
def test_a_value_that_is_none_is_a_store_error(
    table: str, column: str, value: Any, path: Path
) -> None:
    edited(path, table, column, value)
    with pytest.raises(StoreError):
        read(path)


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("runs", "payload", 10**9),
        ("runs", "line", 10**9),
        ("runs", "line", "x"),
        ("routes", "created_at", "yesterday"),
        ("cursors", "value", '{"done": 7}'),
        ("cursors", "value", "[1]"),
        ("meta", "value", "three"),
    ],
)
def test_a_value_of_another_kind_is_a_store_error(
    table: str, column: str, value: Any, path: Path
) -> None:
    edited(path, table, column, value)
    with pytest.raises(StoreError):
        read(path)
