"""Deleting and pruning: what is gone is gone from the bytes, and the rest stays."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda
from sqlalchemy import event

from tests.tracing.on_disk import readable
from tests.tracing.routed import app_around, question, routed_graph
from tests.tracing.store.test_import import a_run
from xrouter_lg.errors import ConfigurationError, StoreError
from xrouter_lg.tracing import Recorder, TraceStore

ECHO = RunnableLambda(lambda x: x)


def told(store: TraceStore, words: str, **config: Any) -> None:
    """A routed request in which somebody says ``words``."""
    tenant = config.pop("tenant", None)
    thread = config.get("configurable", {}).get("thread_id")
    with Recorder(store) as recorder:
        graph = app_around(routed_graph(tenant=tenant, thread_id=thread))
        asyncio.run(graph.ainvoke(question(words), {"callbacks": [recorder], **config}))
    [row] = store.routes(limit=1, **({"thread_id": thread} if thread else {}))
    store.record_feedback(row.trace_id, "said", 1.0, comment=f"about {words}")


BY: dict[str, tuple[Any, dict[str, Any]]] = {
    "thread": ("th-7", {"configurable": {"thread_id": "th-7"}}),
    "user": ("jo-4711", {"metadata": {"user_id": "jo-4711"}}),
    "tenant": ("acme-inc", {"tenant": "acme-inc"}),
}


@pytest.mark.parametrize("by", list(BY))
def test_what_is_deleted_is_gone_from_the_bytes_and_the_rest_stays(
    store: TraceStore, db: Path, by: Any
) -> None:
    value, config = BY[by]
    told(store, "plum pudding", **config)
    told(store, "apple tart", configurable={"thread_id": "other"}, metadata={"user_id": "mo"})
    before = readable(db)
    assert b"plum pudding" in before and str(value).encode() in before
    assert store.delete(by, value, dry_run=True)["traces"] == 1
    assert b"plum pudding" in readable(db)
    assert store.delete(by, value) == {"traces": 1, "runs": 7, "routes": 1, "feedback": 1}
    after = readable(db)
    assert b"plum pudding" not in after and str(value).encode() not in after
    assert b"apple tart" in after
    assert [row.record.thread_id for row in store.routes()] == ["other"]
    assert len(store.feedback(store.routes()[0].trace_id)) == 1
    assert store.delete(by, value)["traces"] == 0


def test_a_user_in_configurable_is_known_too(store: TraceStore) -> None:
    """LangGraph keeps ``configurable`` from tracers; LangSmith's gets it by a way of its own."""
    told(store, "plum", configurable={"thread_id": "t", "user_id": "jo"})
    told(store, "plum", configurable={"thread_id": "u", "langgraph_auth_user_id": "mo"})
    assert [row.record.thread_id for row in store.routes(user="jo")] == ["t"]
    assert [row.record.thread_id for row in store.routes(user="mo")] == ["u"]


def test_one_trace_can_be_deleted(store: TraceStore) -> None:
    store.import_runs([a_run("a"), a_run("b")])
    assert store.delete("trace", "a")["runs"] == 1
    assert [trace.id for trace in store.iter_traces()] == ["b"]


def test_feedback_of_a_trace_that_is_not_here_can_be_deleted(store: TraceStore) -> None:
    store.record_feedback("elsewhere", "k", 1.0, comment="private")
    assert store.delete("trace", "elsewhere")["feedback"] == 1


def test_a_misspelt_kind_is_refused(store: TraceStore) -> None:
    with pytest.raises(StoreError, match="delete by one of trace, thread, user, tenant, not 'usr'"):
        store.delete("usr", "jo")  # type: ignore[arg-type]


def test_no_payload_is_left_without_its_runs(store: TraceStore, db: Path) -> None:
    store.import_runs([a_run("a", trace_id="t")])
    store.import_runs([a_run("b", trace_id="t")])
    store.import_runs([a_run("c", trace_id="u")])
    store.delete("trace", "t")
    with sqlite3.connect(db) as connection:
        assert connection.execute("SELECT count(*) FROM payloads").fetchone() == (1,)
    connection.close()


def test_a_reader_that_keeps_the_log_is_named_and_the_rest_is_done(
    store: TraceStore, db: Path
) -> None:
    store.import_runs([a_run("a"), a_run("b")])
    reader = sqlite3.connect(db, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM runs").fetchone()
    with TraceStore(db, busy_timeout_s=0.05) as hasty:
        with pytest.raises(StoreError, match=r"could not be emptied|locked"):
            hasty.delete("trace", "a")
        assert hasty.counts()["runs"] == 1
        reader.execute("COMMIT")
        reader.close()
        hasty.compact()


# --- retention -----------------------------------------------------------------------------


def aged(store: TraceStore, count: int, size: int = 10) -> None:
    """One trace an hour, the last one now."""
    noise = random.Random(0)
    now = datetime.now(UTC)
    store.import_batches(
        a_run(
            f"r{number:04}",
            start_time=now - timedelta(hours=count - number),
            inputs={"q": noise.randbytes(size).hex()},
        )
        for number in range(count)
    )


def size_on_disk(db: Path) -> int:
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return db.stat().st_size


def kept(store: TraceStore) -> list[str]:
    return [trace.id for trace in store.iter_traces()]


def test_pruning_by_age_keeps_what_is_younger(store: TraceStore) -> None:
    aged(store, 250)
    before = datetime.now(UTC) - timedelta(hours=10.5)
    assert store.prune(before=before)["traces"] == 240
    assert kept(store) == [f"r{number:04}" for number in range(240, 250)]
    assert store.prune(before=before)["traces"] == 0


def test_pruning_by_size_deletes_the_oldest_and_shrinks_the_file(
    store: TraceStore, db: Path
) -> None:
    aged(store, 300, size=5000)
    used, size = store.used_bytes(), size_on_disk(db)
    store.prune(max_bytes=used // 2)
    assert used // 3 < store.used_bytes() <= used // 2
    left = kept(store)
    assert left == [f"r{number:04}" for number in range(300 - len(left), 300)]
    assert size_on_disk(db) < 0.6 * size


def test_pruning_takes_few_traces_to_a_transaction(store: TraceStore) -> None:
    aged(store, 350)
    deleted: list[int] = []

    @event.listens_for(store._engine, "commit")
    def count(connection: Any) -> None:
        left = connection.exec_driver_sql("SELECT count(*) FROM traces").scalar()
        deleted.append(350 - left)

    store.prune(before=datetime.now(UTC) + timedelta(hours=1))
    steps = [b - a for a, b in zip([0, *deleted], deleted, strict=False)]
    assert max(steps) <= 100 and sum(steps) == 350


def test_a_recorder_loses_nothing_while_the_store_is_pruned(db: Path) -> None:
    with TraceStore(db) as store, Recorder(db) as recorder:
        aged(store, 2000)
        old = datetime.now(UTC) - timedelta(minutes=30)
        pruning = threading.Thread(target=lambda: store.prune(before=old))
        pruning.start()
        number = 0
        while pruning.is_alive():
            ECHO.invoke(number, {"callbacks": [recorder]})
            number += 1
            time.sleep(0.005)  # busy, but no flood: what a full queue drops is another test's
        pruning.join()
        assert recorder.flush(10)
        assert (recorder.failed, recorder.dropped) == (0, 0)
        assert store.counts()["traces"] == number


def test_a_recorder_with_retention_deletes_what_is_too_old(db: Path) -> None:
    with TraceStore(db) as store:
        aged(store, 48)
    with Recorder(db, retention_days=1) as recorder:
        ECHO.invoke("new", {"callbacks": [recorder]})
        assert recorder.flush(10)
        assert 20 < recorder.store.counts()["traces"] < 30
        assert kept(recorder.store)[0] >= "r0020"


def test_retention_needs_a_time() -> None:
    with pytest.raises(ConfigurationError, match="retention_days must be above 0, got 0"):
        Recorder(retention_days=0)
