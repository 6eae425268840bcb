"""Exports and imports: what goes out comes back as it was."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.tracing.routed import Worker, app_around, question, routed_graph
from tests.tracing.store.test_import import a_run
from xrouter_lg.errors import MissingExtraError, StoreError
from xrouter_lg.tracing import Recorder, TraceStore


@pytest.fixture
def full(store: TraceStore) -> TraceStore:
    """Routed, failed, imported and unfinished traces, feedback on some and on none of them."""

    async def fill() -> None:
        with Recorder(store, project="prod") as recorder:
            config = {"callbacks": [recorder], "tags": ["beta"]}
            await app_around(routed_graph(thread_id="t1")).ainvoke(question("é \U0001f600"), config)
            await app_around(routed_graph(policy="knn", cost_usd=None)).ainvoke(question(), config)
            with pytest.raises(RuntimeError):
                await routed_graph(Worker(error="boom")).ainvoke(question(), config)

    asyncio.run(fill())
    odd = a_run("odd", total_cost="0.0012", session_id="s", inputs={}, outputs=None, end_time=None)
    store.import_runs([odd, a_run("plain", outputs={"output": [None, 1.5, "x\ny\tz"]})])
    [first] = store.routes(thread_id="t1")
    store.record_feedback(first.trace_id, "good", 0.25, value={"a": [1]}, comment="fine")
    store.record_feedback("not-stored-yet", "good", None, correction={"route": "large"})
    return store


def everything(store: TraceStore) -> Any:
    traces = [(t.id, t.runs, t.feedback) for t in store.iter_traces()]
    return traces, store.routes(), store.feedback("not-stored-yet"), store.counts()


@pytest.mark.parametrize(("name", "kind"), [("out.jsonl", "jsonl"), ("out", "parquet")])
def test_an_export_imported_into_an_empty_store_is_the_same_store(
    full: TraceStore, tmp_path: Path, name: str, kind: Any
) -> None:
    counts = full.export(tmp_path / name, format=kind)
    assert counts["runs"] == full.counts()["runs"]
    assert counts["feedback"] == 2
    with TraceStore(tmp_path / "new.db") as new:
        assert new.import_files([tmp_path / name])["new_runs"] == counts["runs"]
        assert everything(new) == everything(full)
        assert new.routes(tag="beta", errors=False) == full.routes(tag="beta", errors=False)
        again = new.import_files([tmp_path / name])
        assert (again["new_runs"], again["new_feedback"]) == (0, 0)
        assert everything(new) == everything(full)


def test_filters_choose_what_is_exported(full: TraceStore, tmp_path: Path) -> None:
    for name, kind in (("some.jsonl", "jsonl"), ("some", "parquet")):
        counts = full.export(tmp_path / name, format=kind, thread_id="t1")  # type: ignore[arg-type]
        assert (counts["runs"], counts["feedback"]) == (7, 1)


def test_a_parquet_export_is_a_table_for_anyone(full: TraceStore, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    full.export(tmp_path / "out", format="parquet")
    runs = polars.read_parquet(tmp_path / "out" / "runs.parquet")
    assert runs.schema["start_time"] == polars.Datetime("us", "UTC")
    assert runs.height == full.counts()["runs"]
    routes = polars.read_parquet(tmp_path / "out" / "routes.parquet")
    assert sorted(routes["policy"]) == ["cheapest", "knn"]
    assert routes.filter(policy="knn")["cost_usd"].to_list() == [None]


def test_an_export_of_more_rows_than_a_batch_is_whole(store: TraceStore, tmp_path: Path) -> None:
    pytest.importorskip("polars")
    runs = [a_run(f"r{number:05}", inputs={"n": number}) for number in range(4500)]
    store.import_batches(runs)
    assert store.export(tmp_path / "out", format="parquet")["runs"] == 4500
    with TraceStore(tmp_path / "new.db") as new:
        assert new.import_files([tmp_path / "out" / "runs.parquet"])["new_runs"] == 4500
        assert new.runs("r04321")[0]["inputs"] == {"n": 4321}


def test_an_empty_store_exports_an_empty_table(store: TraceStore, tmp_path: Path) -> None:
    pytest.importorskip("polars")
    assert store.export(tmp_path / "out", format="parquet")["runs"] == 0
    with TraceStore(tmp_path / "new.db") as new:
        assert new.import_files([tmp_path / "out"]) == {}


def test_without_polars_the_extra_is_named(
    full: TraceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(MissingExtraError, match=r'pip install "xrouter_lg\[data\]"'):
        full.export(tmp_path / "out", format="parquet")
    assert not (tmp_path / "out").exists()
    (tmp_path / "x.parquet").touch()
    with pytest.raises(MissingExtraError, match=r"xrouter_lg\[data\]"):
        full.import_files([tmp_path / "x.parquet"])


def test_an_earlier_export_is_replaced_and_another_folder_is_not(
    full: TraceStore, tmp_path: Path
) -> None:
    pytest.importorskip("polars")
    for _ in range(2):
        full.export(tmp_path / "out", format="parquet")
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]
    precious = tmp_path / "mine"
    precious.mkdir()
    (precious / "notes.txt").touch()
    with pytest.raises(StoreError, match="is no earlier export"):
        full.export(precious, format="parquet")
    assert (precious / "notes.txt").exists()


def test_a_parquet_export_that_fails_leaves_the_old_one(
    full: TraceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polars = pytest.importorskip("polars")
    full.export(tmp_path / "out", format="parquet")

    def broken(*_: Any, **__: Any) -> Any:
        raise OSError(28, "disk full")

    monkeypatch.setattr(polars.LazyFrame, "sink_parquet", broken)
    with pytest.raises(StoreError, match="disk full"):
        full.export(tmp_path / "out", format="parquet")
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "r", "start', r"'.*bad.jsonl', line 2 holds no JSON"),
        (b'{"some": "thing"}', r"'.*bad.jsonl', line 2: neither a run"),
        (b'{"id": "r2"}', "line 2: neither a run"),
    ],
)
def test_a_line_that_can_t_be_read_is_named(
    store: TraceStore, tmp_path: Path, line: bytes, message: str
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(orjson.dumps(a_run()) + b"\n" + line)
    with pytest.raises(StoreError, match=message):
        store.import_files([path])


def test_what_python_s_json_writes_for_nan_is_read(store: TraceStore, tmp_path: Path) -> None:
    path = tmp_path / "nan.jsonl"
    path.write_text(json.dumps(a_run(outputs={"score": float("nan")})) + "\n\n")
    store.import_files([path])
    assert store.counts()["runs"] == 1


def test_files_that_are_no_export_are_refused(store: TraceStore, tmp_path: Path) -> None:
    polars = pytest.importorskip("polars")
    polars.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 oops")
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("nowhere.jsonl", "there is no file"),
        ("other.parquet", "is no export of runs or feedback; its columns are a"),
        ("broken.parquet", "can't be read as Parquet"),
        ("empty", "holds no runs.parquet"),
    ):
        with pytest.raises(StoreError, match=message):
            store.import_files([tmp_path / name])


def test_an_import_tells_how_far_it_is(store: TraceStore, tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(a_run(f"r{number}")) for number in range(2500)))
    steps: list[int] = []
    store.import_files([path], progress=steps.append)
    assert steps == [2000, 500]
