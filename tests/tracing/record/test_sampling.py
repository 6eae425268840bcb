"""Sampling: whole traces or nothing of them, the same choice everywhere, the rate on record."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from langchain_core.runnables import RunnableLambda

from tests.tracing.routed import app_around, question, routed_graph
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.tracing import Recorder, TraceStore
from xrouter_lg.tracing.record import recorder as module
from xrouter_lg.tracing.runs.open_runs import sampled


def routed(recorder: Recorder, count: int) -> list[dict[str, Any]]:
    """The records of that many requests, as the app got them."""

    async def ask() -> list[Any]:
        app = app_around(routed_graph())
        config = {"callbacks": [recorder]}
        return [await app.ainvoke(question(), config) for _ in range(count)]

    states = asyncio.run(ask())
    recorder.flush(10)
    return [state["messages"][-1].response_metadata["xrouter"] for state in states]


def test_a_trace_is_kept_whole_or_not_at_all(db: Path) -> None:
    with Recorder(db, sample_rate=0.5) as recorder:
        routed(recorder, 40)
        sizes = [len(trace.runs) for trace in recorder.store.iter_traces()]
    assert 8 <= len(sizes) <= 32
    assert set(sizes) == {7}


def test_the_rate_is_in_every_row(db: Path) -> None:
    with Recorder(db, sample_rate=0.5) as recorder:
        routed(recorder, 40)  # of eight, one time in 256 none is kept
        traces = list(recorder.store.iter_traces())
        with recorder.store._engine.connect() as connection:
            rates = connection.exec_driver_sql("SELECT sample_rate FROM traces").scalars().all()
    assert {
        run["extra"]["metadata"]["ls_tracing_sample_rate"] for t in traces for run in t.runs
    } == {0.5}
    assert set(rates) == {0.5}


def test_without_sampling_no_rate_is_written(recorder: Recorder) -> None:
    routed(recorder, 1)
    [trace] = recorder.store.iter_traces()
    assert all("ls_tracing_sample_rate" not in run["extra"]["metadata"] for run in trace.runs)


def test_the_choice_is_the_same_for_an_id_and_fair_over_many() -> None:
    ids = [uuid4() for _ in range(4000)]
    assert [sampled(i, 0.3) for i in ids] == [sampled(UUID(str(i)), 0.3) for i in ids]
    share = sum(sampled(i, 0.3) for i in ids) / len(ids)
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / len(ids))
    assert all(sampled(i, 0.6) for i in ids if sampled(i, 0.3))  # more is a superset
    assert not any(sampled(i, 0.0) for i in ids)


def test_what_is_not_kept_is_neither_copied_nor_queued(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(*_: Any) -> Any:
        raise AssertionError("copied")

    with Recorder(db, sample_rate=0) as recorder:
        for name in ("_copied", "snapshot", "snapshot_messages", "snapshot_result", "error_text"):
            monkeypatch.setattr(module, name, copied)
        monkeypatch.setattr(recorder._sink, "put", copied)
        monkeypatch.setattr(recorder._sink, "offer", copied)
        routed(recorder, 2)
        assert recorder._open == {}
        assert recorder.store.counts()["runs"] == 0


def test_a_request_that_is_not_kept_still_knows_its_trace(db: Path) -> None:
    """So that feedback and LangSmith can name it."""
    with Recorder(db, sample_rate=0) as recorder:
        [record] = routed(recorder, 1)
    assert record["trace_id"] and record["run_id"]


def test_a_failure_in_a_trace_that_is_not_kept_leaves_nothing_open(db: Path) -> None:
    def fail(_: Any) -> Any:
        raise ValueError("no")

    with Recorder(db, sample_rate=0) as recorder:
        with pytest.raises(ValueError, match="no"):
            RunnableLambda(fail).invoke(1, {"callbacks": [recorder]})
        assert recorder._open == {}


@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_a_rate_that_is_no_share_is_refused(rate: float) -> None:
    with pytest.raises(ConfigurationError, match="sample_rate must be from 0 to 1"):
        Recorder(sample_rate=rate)


def test_the_rate_survives_an_export(db: Path, tmp_path: Path) -> None:
    with Recorder(db, sample_rate=0.999999) as recorder:
        routed(recorder, 1)
        recorder.store.export(tmp_path / "out.jsonl")
    with TraceStore(tmp_path / "new.db") as new:
        new.import_files([tmp_path / "out.jsonl"])
        with new._engine.connect() as connection:
            rate = connection.exec_driver_sql("SELECT sample_rate FROM traces").scalar()
    assert rate == 0.999999
