"""The store: opening, migrating, reading, feedback and export."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.dialects import postgresql

from tests.tracing.routed import a_record
from xrouter_lg.errors import StoreError
from xrouter_lg.tracing import Recorder, TraceStore
from xrouter_lg.tracing.runs.extract import ExtractedRoute
from xrouter_lg.tracing.runs.pack import pack
from xrouter_lg.tracing.store import migrations, schema
from xrouter_lg.tracing.store.connect import resolve_url
from xrouter_lg.tracing.store.rows import RowMaker
from xrouter_lg.tracing.store.write import postgres_upsert

RUN_COLUMNS = (
    *("parent_run_id", "end_time", "error", "tags", "inputs", "outputs", "extra", "events"),
    *("prompt_tokens", "completion_tokens", "total_tokens"),
)


def add_route(store: TraceStore, route_id: str, trace_id: str = "t", **changes: Any) -> None:
    project = changes.pop("project", "default")
    found = ExtractedRoute(route_id, f"{route_id}-run", trace_id, a_record(**changes))
    store.write([], [RowMaker(project, None)._route_row(found)])


def a_run(run_id: str, trace_id: str = "t", **changes: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(RUN_COLUMNS),
        "id": run_id,
        "trace_id": trace_id,
        "dotted_order": run_id,
        "name": run_id,
        "run_type": "chain",
        "start_time": "2026-11-01T00:00:00.000000+00:00",
        "status": "success",
        "session_name": "default",
        **changes,
    }


def ids(store: TraceStore, **filters: Any) -> list[str]:
    return [row.id for row in store.routes(**filters)]


# --- opening -------------------------------------------------------------------------------


def test_a_path_a_url_and_the_default_are_all_sqlite_files(tmp_path: Path) -> None:
    for target in (tmp_path / "a.db", f"sqlite:///{tmp_path}/b.db"):
        TraceStore(target).close()
    assert {"a.db", "b.db"} <= {path.name for path in tmp_path.iterdir()}


def test_sqlite_runs_in_wal_mode(store: TraceStore, db: Path) -> None:
    with sqlite3.connect(db) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_postgres_urls_get_the_psycopg_3_driver() -> None:
    assert resolve_url("postgres://me@host/db").drivername == "postgresql+psycopg"


def test_upserts_compile_for_postgres() -> None:
    statement: Any = postgres_upsert(schema.routes)
    sql = str(statement.compile(dialect=postgresql.dialect()))
    assert "ON CONFLICT (id) DO UPDATE SET run_id = excluded.run_id" in sql


def test_memory_is_refused_with_the_reason() -> None:
    with pytest.raises(StoreError, match="needs a file"):
        TraceStore(":memory:")


def test_another_database_is_refused_by_name() -> None:
    with pytest.raises(StoreError, match="SQLite and Postgres, not 'mysql'"):
        TraceStore("mysql://host/db")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"folder '.*nowhere' does not exist. Create it"):
        TraceStore(tmp_path / "nowhere" / "t.db")


def test_a_folder_is_no_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is a folder"):
        TraceStore(tmp_path)


def test_a_missing_file_is_not_created_for_reading(db: Path) -> None:
    with pytest.raises(StoreError, match="there is no trace store at"):
        TraceStore(db, create=False)
    assert not db.exists()


def test_a_file_that_is_no_database_is_refused(db: Path) -> None:
    db.write_bytes(b"hello, I am a text file, not a database. " * 50)
    with pytest.raises(StoreError, match=r"traces.db.*not a database.*Move the file away"):
        TraceStore(db)


def test_a_password_in_a_url_is_never_shown() -> None:
    with pytest.raises(StoreError) as caught:
        TraceStore("mysql://me:hunter2hunter2@host/db")
    assert "hunter2" not in str(caught.value)


# --- migrations ----------------------------------------------------------------------------


def test_a_new_file_has_the_newest_schema_version(store: TraceStore) -> None:
    with store._engine.connect() as connection:
        assert migrations.stored_version(connection) == migrations.SCHEMA_VERSION


def test_a_file_of_a_newer_version_is_refused(store: TraceStore, db: Path) -> None:
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    with pytest.raises(StoreError, match=r"schema version 99.*Upgrade xrouter_lg"):
        TraceStore(db)


def next_step(connection: Connection) -> None:
    connection.execute(text("ALTER TABLE routes ADD COLUMN later TEXT"))


def test_an_older_file_gets_the_missing_steps_in_order(
    store: TraceStore, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_route(store, "kept")
    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, (99, next_step)])
    monkeypatch.setattr("xrouter_lg.tracing.store.connect.SCHEMA_VERSION", 99)
    with TraceStore(db) as upgraded, upgraded._engine.connect() as connection:
        assert migrations.stored_version(connection) == 99
        assert connection.execute(text("SELECT id, later FROM routes")).all() == [("kept", None)]


def test_a_step_that_fails_leaves_the_file_as_it_was(
    store: TraceStore, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = migrations.SCHEMA_VERSION

    def broken(connection: Connection) -> None:
        next_step(connection)
        connection.execute(text("SELECT * FROM nowhere"))

    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, (99, broken)])
    monkeypatch.setattr("xrouter_lg.tracing.store.connect.SCHEMA_VERSION", 99)
    with pytest.raises(StoreError, match="nowhere"):
        TraceStore(db)
    with store._engine.connect() as connection:
        columns = connection.execute(text("PRAGMA table_info(routes)")).all()
        assert "later" not in {column[1] for column in columns}
        assert migrations.stored_version(connection) == before


def test_many_processes_may_open_a_new_file_at_once(db: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        for opened in pool.map(lambda _: TraceStore(db), range(8)):
            opened.close()


# --- reading -------------------------------------------------------------------------------


def test_writing_the_same_rows_twice_changes_nothing(store: TraceStore) -> None:
    for _ in range(2):
        store.write([a_run("r")])
        add_route(store, "a")
    assert (store.counts()["runs"], store.counts()["routes"]) == (1, 1)


def test_routes_come_newest_first_up_to_the_limit(store: TraceStore) -> None:
    for number in range(5):
        add_route(store, str(number), started_at=1000.0 + number)
    assert ids(store, limit=2) == ["4", "3"]


def test_since_is_inclusive_and_until_exclusive(store: TraceStore) -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    for number in range(3):
        moment = start + timedelta(hours=number)
        add_route(store, str(number), started_at=moment.timestamp())
    until = start + timedelta(hours=2)
    assert ids(store, since=start + timedelta(hours=1), until=until) == ["1"]


@pytest.mark.parametrize(
    ("changes", "filters"),
    [
        ({"route": "large"}, {"route": "large"}),
        ({"policy": "knn"}, {"policy": "knn"}),
        ({"policy_version": "9"}, {"policy_version": "9"}),
        ({"thread_id": "t9"}, {"thread_id": "t9"}),
        ({"tenant": "acme"}, {"tenant": "acme"}),
        ({"project": "prod"}, {"project": "prod"}),
        ({"fallbacks": [{"card": "large", "error": "timeout"}]}, {"fallbacks": True}),
        ({"route": None}, {"errors": True}),
        ({"cost_usd": "0.5"}, {"min_cost_usd": 0.1}),
    ],
)
def test_each_filter_finds_its_request_and_no_other(
    store: TraceStore, changes: dict[str, Any], filters: dict[str, Any]
) -> None:
    add_route(store, "other")
    add_route(store, "wanted", **changes)
    assert ids(store, **filters) == ["wanted"]


def test_a_failed_run_makes_its_request_an_error(store: TraceStore) -> None:
    add_route(store, "a", trace_id="bad")
    add_route(store, "b", trace_id="good")
    store.write([a_run("r", "bad", status="error")])
    assert ids(store, errors=True) == ["a"]


def test_a_misspelt_filter_is_refused(store: TraceStore) -> None:
    with pytest.raises(StoreError, match=r"unknown filter \['polcy'\]; use since"):
        store.routes(polcy="x")  # type: ignore[call-arg]


def test_an_unknown_cost_stays_unknown(store: TraceStore) -> None:
    add_route(store, "a", cost_usd=None)
    assert store.routes()[0].record.cost_usd is None


def test_a_cost_keeps_every_digit(store: TraceStore) -> None:
    add_route(store, "a", cost_usd="0.123456789012345678901234567890")
    assert store.routes()[0].record.cost_usd == "0.123456789012345678901234567890"


def test_a_record_of_another_version_is_named(store: TraceStore) -> None:
    add_route(store, "a")
    with store._engine.begin() as connection:
        connection.execute(schema.routes.update().values(record=pack("{}")))
    with pytest.raises(StoreError, match=r"route 'a'.*written by another version"):
        store.routes()


def test_a_tree_holds_children_under_parents(store: TraceStore) -> None:
    store.write([a_run("b", parent_run_id="a", dotted_order="a.b"), a_run("a")])
    [root] = store.run_tree("t")
    assert (root.run["id"], [child.run["id"] for child in root.children]) == ("a", ["b"])


def test_a_run_whose_parent_is_missing_is_a_root(store: TraceStore) -> None:
    store.write([a_run("b", parent_run_id="gone")])
    assert [node.run["id"] for node in store.run_tree("t")] == ["b"]


def test_a_prefix_finds_traces_by_trace_and_by_route_id(store: TraceStore) -> None:
    add_route(store, "route-1", trace_id="trace-1")
    store.write([a_run("r", "trace-2")])
    assert store.find("route") == ["trace-1"]
    assert store.find("trace-2") == ["trace-2"]
    assert store.find("trace_") == []


# --- feedback ------------------------------------------------------------------------------


def test_feedback_keeps_score_value_and_correction_exactly(store: TraceStore) -> None:
    store.record_feedback(
        "t", "quality", 0.123456789, value={"raw": [1, 2]}, correction={"route": "large"}
    )
    [entry] = store.feedback("t")
    assert entry["score"] == 0.123456789
    assert (entry["value"], entry["correction"]) == ({"raw": [1, 2]}, {"route": "large"})
    assert entry["run_id"] == "t"


def test_feedback_with_an_id_replaces_itself(store: TraceStore) -> None:
    for score in (0.0, 1.0):
        store.record_feedback("t", "quality", score, feedback_id="f1")
    assert [entry["score"] for entry in store.feedback("t")] == [1.0]


def test_feedback_without_an_id_adds_up(store: TraceStore) -> None:
    for score in (0.0, 1.0):
        store.record_feedback("t", "quality", score)
    assert len(store.feedback("t")) == 2


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "yes", [1.0], 10**400])
def test_a_score_that_is_no_number_is_refused(store: TraceStore, score: Any) -> None:
    with pytest.raises(StoreError, match=r"'quality' of trace 't'.*not a finite number"):
        store.record_feedback("t", "quality", score)


@pytest.mark.parametrize("target", [None, 5, ["traces.db"]])
def test_a_store_that_is_no_place_is_named(target: Any) -> None:
    for open_store in (TraceStore, Recorder):
        with pytest.raises(StoreError, match=r"the trace store is .*; give a path such as"):
            open_store(target)


def test_feedback_without_a_key_is_refused(store: TraceStore) -> None:
    with pytest.raises(StoreError, match="needs a trace id and a key"):
        store.record_feedback("t", "", 1.0)


def test_a_value_that_is_no_json_is_refused(store: TraceStore) -> None:
    with pytest.raises(StoreError, match="can't be stored as JSON"):
        store.record_feedback("t", "quality", 1.0, value=object())


# --- export --------------------------------------------------------------------------------


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_an_export_without_filters_holds_every_run(store: TraceStore, tmp_path: Path) -> None:
    store.write([a_run("r1", "t1", inputs='{"a": 1}'), a_run("r2", "t2")])
    add_route(store, "route", trace_id="t1")
    assert store.export(tmp_path / "out.jsonl") == {"runs": 2}
    assert [line["inputs"] for line in lines(tmp_path / "out.jsonl")] == [{"a": 1}, {}]


def test_filters_choose_the_traces_of_an_export(store: TraceStore, tmp_path: Path) -> None:
    store.write([a_run("r1", "t1"), a_run("r2", "t2")])
    add_route(store, "a", trace_id="t1", policy="knn")
    add_route(store, "b", trace_id="t2")
    assert store.export(tmp_path / "out.jsonl", policy="knn", limit=5) == {"runs": 1}
    assert lines(tmp_path / "out.jsonl")[0]["id"] == "r1"


def test_a_route_export_holds_whole_records(store: TraceStore, tmp_path: Path) -> None:
    add_route(store, "a")
    store.export(tmp_path / "out.jsonl", routes_only=True)
    [line] = lines(tmp_path / "out.jsonl")
    assert line["record"] == a_record().to_dict()


def test_an_export_that_fails_leaves_the_old_file(
    store: TraceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    add_route(store, "a")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(StoreError, match=r"can't export to '.*out.jsonl': disk full"):
        store.export(target, routes_only=True)
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_an_export_into_no_folder_says_so(store: TraceStore, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="Check that its folder exists"):
        store.export(tmp_path / "nowhere" / "out.jsonl")
