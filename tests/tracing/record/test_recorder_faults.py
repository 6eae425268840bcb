"""Disk, queue and process failures: the request goes on, and what was lost is counted."""

from __future__ import annotations

import logging
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from tests.support.waiting import wait_until
from xrouter_lg.errors import ConfigurationError, StoreError
from xrouter_lg.tracing import Recorder, TraceStore

ECHO = RunnableLambda(lambda x: x)
ROOT = Path(__file__).parents[3]


def ask(recorder: Recorder, value: Any = 1) -> Any:
    return ECHO.invoke(value, {"callbacks": [recorder]})


def test_a_full_queue_drops_the_newest_runs_and_counts_them(db: Path) -> None:
    with Recorder(db, max_queue=4) as recorder:
        write, go_on = recorder.store.write, threading.Event()

        def stuck(*args: Any) -> None:
            assert go_on.wait(60)
            write(*args)

        recorder.store.write = stuck  # type: ignore[method-assign,assignment]
        for number in range(20):
            assert ask(recorder, number) == number
        go_on.set()
        assert recorder.flush(60)
        kept = recorder.store.counts()["runs"]
        assert recorder.dropped > 0
        assert kept + recorder.dropped == 20


def test_a_store_locked_for_good_is_counted_and_the_request_answered(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrouter_lg.tracing.record.recorder._LOCKED_S", 0.0)
    with TraceStore(db, busy_timeout_s=0.05) as store, Recorder(store) as recorder:
        other = sqlite3.connect(db, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        assert ask(recorder) == 1
        recorder.flush(10)
        assert recorder.failed == 1
        assert "locked" in str(recorder.last_error)
        other.execute("ROLLBACK")
        other.close()


def test_a_lock_that_outlasts_many_tries_loses_nothing(db: Path) -> None:
    with TraceStore(db, busy_timeout_s=0.01) as store, Recorder(store) as recorder:
        other = sqlite3.connect(db, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        for number in range(3):
            ask(recorder, number)
            assert not recorder.flush(0.5)
        other.execute("ROLLBACK")
        other.close()
        assert recorder.flush(30)
        assert (store.counts()["runs"], recorder.failed, recorder.dropped) == (3, 0, 0)


def test_a_request_of_durability_sync_is_in_the_store_when_it_is_answered(db: Path) -> None:
    with Recorder(db, durability="sync") as recorder:
        for number in range(1, 6):
            ask(recorder, number)
            with sqlite3.connect(db) as beside:
                assert beside.execute("SELECT count(*) FROM traces").fetchone() == (number,)
        with recorder.store._engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2  # FULL


def test_a_store_that_hangs_holds_one_request_of_durability_sync_up_and_counts_all(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrouter_lg.tracing.record.recorder._CONFIRM_S", 0.2)
    with Recorder(db, durability="sync") as recorder:
        other = sqlite3.connect(db, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        for number in range(20):
            assert ask(recorder, number) == number
        assert recorder.late == 20
        other.execute("ROLLBACK")
        other.close()
        assert recorder.flush(30)
        assert ask(recorder) == 1
        assert (recorder.late, recorder.failed, recorder.store.counts()["runs"]) == (20, 0, 21)


def test_a_clock_that_is_set_back_leaves_no_run_that_ends_before_it_began(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recorder(db) as recorder:

        def back(value: Any) -> Any:
            class Earlier(datetime):
                @classmethod
                def now(cls, tz: Any = None) -> datetime:
                    return datetime.now(tz) - timedelta(hours=1)

            monkeypatch.setattr("xrouter_lg.tracing.record.recorder.datetime", Earlier)
            return value

        RunnableLambda(back).invoke(1, {"callbacks": [recorder]})
        assert recorder.flush(10)
        [trace] = recorder.store.iter_traces()
        assert all(run["start_time"] <= run["end_time"] for run in trace.runs)


@pytest.mark.parametrize("option", [{"durability": "exit"}, {"durability": None}])
def test_a_durability_that_is_none_is_refused(db: Path, option: Any) -> None:
    with pytest.raises(ConfigurationError, match="durability"):
        Recorder(db, **option)


def test_a_short_lock_loses_nothing(db: Path) -> None:
    with TraceStore(db, busy_timeout_s=5) as store, Recorder(store) as recorder:
        other = sqlite3.connect(db, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        ask(recorder)
        time.sleep(0.3)
        other.execute("ROLLBACK")
        other.close()
        recorder.flush(10)
        assert (store.counts()["runs"], recorder.failed) == (1, 0)


def test_a_read_only_database_is_counted_and_the_request_answered(db: Path) -> None:
    TraceStore(db).close()
    with Recorder(f"sqlite:///file:{db}?mode=ro&uri=true") as recorder:
        assert ask(recorder) == 1
        recorder.flush(10)
        assert recorder.failed == 1
        assert isinstance(recorder.last_error, StoreError)


def test_a_full_disk_is_counted_and_the_request_answered(db: Path) -> None:
    with TraceStore(db) as store, Recorder(store) as recorder:
        with store._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

        from sqlalchemy import event

        @event.listens_for(store._engine, "begin")
        def shrink(connection: Any) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

        text = random.Random(0).randbytes(50_000).hex()  # nothing that packing could shrink
        assert ask(recorder, text) == text
        recorder.flush(10)
        assert recorder.failed == 1
        assert "full" in str(recorder.last_error)


def test_failures_warn_once(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    TraceStore(db).close()
    with (
        caplog.at_level(logging.WARNING, "xrouter_lg"),
        Recorder(f"sqlite:///file:{db}?mode=ro&uri=true") as recorder,
    ):
        for _ in range(3):
            ask(recorder)
            recorder.flush(10)
    assert len([r for r in caplog.records if r.name.startswith("xrouter_lg")]) == 1


def test_one_odd_run_does_not_take_its_batch_with_it(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = recorder._rows._row

    def picky(run: Any) -> Any:
        if run.inputs == b'{"input":"odd"}':
            raise ValueError("odd run")
        return original(run)

    monkeypatch.setattr(recorder._rows, "_row", picky)
    for value in ("a", "odd", "b"):
        ask(recorder, value)
    recorder.flush(10)
    assert (recorder.store.counts()["runs"], recorder.failed) == (2, 1)


def test_a_closed_recorder_drops_and_counts(db: Path) -> None:
    recorder = Recorder(db)
    recorder.close()
    assert ask(recorder) == 1
    assert recorder.dropped == 1


def test_close_writes_what_is_queued(db: Path) -> None:
    with Recorder(db) as recorder:
        for number in range(50):
            ask(recorder, number)
    with TraceStore(db) as store:
        assert store.counts()["runs"] == 50


SCRIPT = """
    import sys
    from langchain_core.runnables import RunnableLambda
    from xrouter_lg.tracing import Recorder
    recorder = Recorder(sys.argv[1])
    inner = RunnableLambda(lambda x: x, name="inner")
    outer = RunnableLambda(lambda x: inner.invoke(x), name="outer")
"""


def script(body: str, *args: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(SCRIPT) + textwrap.dedent(body), *args]


def test_an_exiting_process_writes_what_is_queued(db: Path) -> None:
    body = 'for i in range(30):\n    outer.invoke(i, {"callbacks": [recorder]})\n'
    subprocess.run(script(body, str(db)), check=True, cwd=ROOT, timeout=60)
    with TraceStore(db) as store:
        assert store.counts()["runs"] == 60


def test_a_killed_process_leaves_whole_traces_in_a_readable_file(db: Path) -> None:
    body = """
        number = 0
        while True:
            outer.invoke(number, {"callbacks": [recorder]})
            number += 1
    """
    process = subprocess.Popen(script(body, str(db)), cwd=ROOT)
    try:
        wait_until(db.exists)
        with TraceStore(db) as store:
            wait_until(lambda: store.counts()["traces"] > 100)
            process.send_signal(signal.SIGKILL)
            process.wait(60)
            traces = store.find("", limit=100_000)
            broken = [trace for trace in traces if len(store.runs(trace)) != 2]
    finally:
        process.kill()
    assert len(traces) > 100
    assert len(broken) <= 1  # the border of the last batch may run through one


def test_a_forked_child_records_for_itself(db: Path) -> None:
    body = """
        import os
        outer.invoke(0, {"callbacks": [recorder]})
        recorder.flush(5)
        child = os.fork()
        if child == 0:
            outer.invoke(1, {"callbacks": [recorder]})
            recorder.flush(5)
            os._exit(0)
        os.waitpid(child, 0)
        outer.invoke(2, {"callbacks": [recorder]})
    """
    subprocess.run(script(body, str(db)), check=True, cwd=ROOT, timeout=60)
    with TraceStore(db) as store:
        assert store.counts()["runs"] == 6
