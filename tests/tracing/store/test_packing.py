"""Payloads: what is packed, what is left of a run that was replaced, and older files."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from importlib.resources import files
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from tests.tracing.on_disk import readable
from tests.tracing.routed import a_record
from tests.tracing.store.test_import import a_run
from xrouter_lg.tracing import TraceStore
from xrouter_lg.tracing.runs.pack import pack, unpack
from xrouter_lg.tracing.store import migrations, schema


@settings(deadline=None)
@given(st.text())
def test_packed_text_comes_back(text: str) -> None:
    raw = text.encode("utf-8", "replace")
    assert unpack(pack(raw)) == raw


def test_the_dictionary_has_not_changed() -> None:
    raw = files("xrouter_lg.tracing.runs").joinpath("pack_1.txt").read_bytes()
    # Stores in the field were packed with it: a better one needs another number.
    assert (
        hashlib.sha256(raw).hexdigest()
        == "59df9495ea1421ce82122b9642499d091778509a47a40cb183f767eea0b92056"
    )


@pytest.mark.parametrize("data", [b"", b"\x02abc", b"\x01not a frame"])
def test_what_can_t_be_unpacked_says_so(data: bytes) -> None:
    with pytest.raises(ValueError, match="packed data"):
        unpack(data)


def payloads(store: TraceStore) -> list[bytes]:
    with store._engine.connect() as connection:
        return list(connection.scalars(select(schema.payloads.c.data)))


def test_what_the_runs_of_a_trace_have_in_common_is_stored_once(store: TraceStore) -> None:
    text = random.Random(0).randbytes(60_000).hex()  # beyond what a deflate window holds
    runs = [a_run(f"r{n}", trace_id="t", inputs={"q": text}) for n in range(6)]
    store.import_runs(runs)
    [data] = payloads(store)
    assert len(data) < 1.2 * len(pack(text))
    assert all(run["inputs"] == {"q": text} for run in store.runs("t"))


def test_nothing_is_left_of_a_run_that_was_replaced(store: TraceStore, db: Path) -> None:
    page = [a_run("a", trace_id="t", inputs={"q": "first words"}), a_run("b", trace_id="t")]
    store.import_runs(page)
    store.import_runs([a_run("a", trace_id="t", inputs={"q": "second words"})])
    store.compact()
    assert len(payloads(store)) == 2
    assert b"first words" not in readable(db)
    assert [run["id"] for run in store.runs("t")] == ["a", "b"]
    store.import_runs([a_run("b", trace_id="t")])
    assert len(payloads(store)) == 2  # the first payload had no run left


def test_a_recorder_s_unfinished_root_leaves_no_payload_behind(store: TraceStore) -> None:
    store.import_runs([a_run(end_time=None)])
    store.import_runs([a_run()])
    assert len(payloads(store)) == 1


# --- older files ---------------------------------------------------------------------------

VERSION_1 = """
CREATE TABLE meta (key VARCHAR PRIMARY KEY, value TEXT);
INSERT INTO meta VALUES ('schema_version', '1');
CREATE TABLE runs (
    id VARCHAR NOT NULL PRIMARY KEY, trace_id VARCHAR NOT NULL, parent_run_id VARCHAR,
    dotted_order TEXT NOT NULL, name TEXT NOT NULL, run_type VARCHAR NOT NULL,
    start_time VARCHAR NOT NULL, end_time VARCHAR, status VARCHAR NOT NULL, error TEXT, tags TEXT,
    inputs TEXT, outputs TEXT, extra TEXT, events TEXT, session_name VARCHAR NOT NULL,
    prompt_tokens INTEGER, completion_tokens INTEGER, total_tokens INTEGER
);
CREATE INDEX ix_runs_trace ON runs (trace_id);
CREATE INDEX ix_runs_start ON runs (start_time);
CREATE TABLE routes (
    id VARCHAR NOT NULL PRIMARY KEY, run_id VARCHAR, trace_id VARCHAR NOT NULL,
    created_at VARCHAR NOT NULL, project VARCHAR NOT NULL, route VARCHAR, policy VARCHAR NOT NULL,
    policy_version VARCHAR NOT NULL, prompt_hash VARCHAR, pool_fingerprint VARCHAR NOT NULL,
    cost_weight FLOAT NOT NULL, propensity FLOAT, cost_usd VARCHAR, router_cost_usd VARCHAR,
    worker_cost_usd VARCHAR, cost_usd_float FLOAT, input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL, latency_s FLOAT NOT NULL, turns INTEGER NOT NULL,
    truncated BOOLEAN NOT NULL, fallbacks INTEGER NOT NULL, thread_id VARCHAR, tenant VARCHAR,
    record TEXT NOT NULL
);
CREATE INDEX ix_routes_created ON routes (created_at);
CREATE INDEX ix_routes_trace ON routes (trace_id);
CREATE TABLE feedback (
    id VARCHAR NOT NULL PRIMARY KEY, run_id VARCHAR NOT NULL, trace_id VARCHAR NOT NULL,
    key VARCHAR NOT NULL, score FLOAT, value TEXT, correction TEXT, comment TEXT,
    source VARCHAR NOT NULL, created_at VARCHAR NOT NULL
);
CREATE INDEX ix_feedback_run_key ON feedback (run_id, key);
CREATE INDEX ix_feedback_trace ON feedback (trace_id);
"""


def insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", [*row.values()])


def version_1(db: Path, traces: int) -> None:
    """A file as the first version wrote it."""
    connection = sqlite3.connect(db)
    connection.executescript(VERSION_1)
    for number in range(traces):
        run = {
            "id": f"r{number:04}",
            "trace_id": f"t{number:04}",
            "dotted_order": f"20261101T000000000000Zr{number:04}",
            "name": "app",
            "run_type": "chain",
            "start_time": f"2026-11-01T00:00:00.{number:06}+00:00",
            "end_time": "2026-11-01T00:00:01.000000+00:00",
            "status": "error" if number == 1 else "success",
            "error": "boom" if number == 1 else None,
            "tags": '["beta"]',
            "inputs": '{"q":"what"}',
            "outputs": '{"n":null}',
            "extra": '{"metadata":{"thread_id":"th","user_id":"jo"}}',
            "session_name": "prod",
        }
        insert(connection, "runs", run)
        record = a_record(thread_id="th", started_at=1_790_000_000.0 + number)
        route = {
            "id": f"c{number:04}",
            "run_id": None,
            "trace_id": f"t{number:04}",
            "created_at": f"2026-11-01T00:00:00.{number:06}+00:00",
            "project": "prod",
            "input_tokens": 11,
            "output_tokens": 7,
            "fallbacks": 0,
            "cost_usd_float": 0.0,
            "record": orjson.dumps(record.to_dict()).decode(),
        }
        names = ("route", "policy", "policy_version", "pool_fingerprint", "cost_weight")
        for name in (*names, "latency_s", "turns", "truncated", "thread_id"):
            route[name] = getattr(record, name)
        insert(connection, "routes", route)
    insert(
        connection,
        "feedback",
        {"id": "f", "run_id": "r0000", "trace_id": "t0000", "key": "k", "score": 1.0}
        | {"source": "api", "created_at": "2026-11-02", "value": "[1]"},
    )
    connection.commit()
    connection.close()


def test_a_file_of_the_first_version_keeps_everything(db: Path) -> None:
    version_1(db, traces=450)  # more than one page of the copying
    size = db.stat().st_size
    with TraceStore(db) as store:
        assert store.counts() == {"traces": 450, "runs": 450, "routes": 450, "feedback": 1}
        [run] = store.runs("t0001")
        assert (run["error"], run["outputs"], run["tags"]) == ("boom", {"n": None}, ["beta"])
        assert (run["session_name"], run["events"]) == ("prod", [])
        assert len(store.routes(errors=True)) == 1
        assert len(store.routes(user="jo", tag="beta")) == 450
        assert store.routes(limit=1)[0].record.started_at == 1_790_000_449.0
        assert store.feedback("t0000")[0]["value"] == [1]
        with store._engine.connect() as connection:
            assert migrations.stored_version(connection) == migrations.SCHEMA_VERSION
    assert db.stat().st_size < size
    with TraceStore(db, create=False) as again:
        assert again.counts()["runs"] == 450


def test_an_upgraded_file_has_the_tables_of_a_new_one(db: Path, tmp_path: Path) -> None:
    version_1(db, traces=1)
    made = []
    for path in (db, tmp_path / "new.db"):
        TraceStore(path).close()
        connection = sqlite3.connect(path)
        made.append(
            connection.execute(
                "SELECT name, tbl_name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1"
            ).fetchall()
        )
        connection.close()
    assert made[0] == made[1]


def test_an_upgrade_that_fails_leaves_the_old_file(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    version_1(db, traces=3)

    def broken(_rows: Any) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr("xrouter_lg.tracing.store.migrations.pack", broken)
    with pytest.raises(OSError, match="disk full"):
        TraceStore(db)
    monkeypatch.undo()
    with TraceStore(db) as store:
        assert store.counts()["runs"] == 3


def test_two_that_upgrade_at_once_both_find_it_done(db: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    version_1(db, traces=50)
    with ThreadPoolExecutor(4) as pool:
        for opened in pool.map(lambda _: TraceStore(db), range(4)):
            assert opened.counts()["runs"] == 50
            opened.close()
