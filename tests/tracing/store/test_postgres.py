"""What is particular to a store on Postgres; most tests of the store run on both kinds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.runnables import RunnableLambda

from tests.tracing.store.test_files import everything, full
from tests.tracing.store.test_import import a_run
from tests.tracing.store.test_packing import VERSION_1
from xrouter_lg.errors import StoreError
from xrouter_lg.tracing import Recorder, TraceStore

_ = full  # a fixture


@pytest.fixture
def url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def postgres(url: str) -> Iterator[TraceStore]:
    with TraceStore(url) as opened:
        yield opened


def test_what_sqlite_holds_is_the_same_in_postgres(
    db: Path, full: TraceStore, postgres: TraceStore, tmp_path: Path
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


def first_version(url: str, runs: int) -> None:
    """A database as the first version left it."""
    run: dict[str, Any] = {
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
    names = ", ".join(["id", *run])
    marks = ", ".join(["%s"] * (len(run) + 1))
    with psycopg.connect(url) as connection:
        connection.execute(VERSION_1)
        for number in range(runs):
            values = [f"r{number}", *run.values()]
            connection.execute(f"INSERT INTO runs ({names}) VALUES ({marks})", values)


def test_a_store_of_the_first_version_is_upgraded(url: str) -> None:
    first_version(url, runs=1)
    with TraceStore(url) as store:
        assert store.runs("t")[0]["inputs"] == {"q": 1}
        assert store.delete("user", "jo", dry_run=True)["runs"] == 1


def test_an_upgrade_under_load_loses_nothing(url: str) -> None:
    """Six processes, as it were, open an old store at once, and each begins to write."""
    first_version(url, runs=300)
    echo = RunnableLambda(lambda x: x)
    lost: list[int] = []

    def record() -> None:
        with Recorder(url) as recorder:
            for number in range(20):
                echo.invoke(number, {"callbacks": [recorder]})
            recorder.flush(30)
            lost.append(recorder.failed + recorder.dropped)

    threads = [threading.Thread(target=record) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost == [0] * 6
    with TraceStore(url) as store:
        assert len(store.runs("t")) == 300
        assert len(list(store.iter_traces())) == 1 + 6 * 20


def test_hashes_have_a_salt_here_too(url: str) -> None:
    with TraceStore(url) as first, TraceStore(url) as second:
        assert len(first.prompt_salt()) == 64
        assert first.prompt_salt() == second.prompt_salt()
