"""Values that JSON or a database has no place for: huge integers, half an emoji, NUL, odd keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableLambda

from tests.tracing.routed import app_around, question, routed_graph
from xrouter_lg.tracing import Recorder, TraceStore

WEI = 19876543210987654321098
HALF, MENDED = "cut \ud83d end", "cut � end"

ODD: list[tuple[Any, Any]] = [
    ({"wei": WEI}, {"wei": WEI}),
    ({"deep": [{"hash": -(2**255)}]}, {"deep": [{"hash": -(2**255)}]}),
    ({"text": HALF, HALF: 1}, {"text": MENDED, MENDED: 1}),
    ({"nul": "a\x00b"}, {"nul": "a\x00b"}),
    ({(1, "a"): {2: None}}, {"(1, 'a')": {"2": None}}),
    ({"nan": float("nan"), "wei": WEI}, {"nan": None, "wei": WEI}),
]


@pytest.mark.parametrize(("value", "kept"), ODD)
@pytest.mark.parametrize("redacting", [False, True])
def test_they_are_kept_as_exactly_as_can_be(
    store: TraceStore, value: Any, kept: Any, redacting: bool
) -> None:
    redact = (lambda seen: seen) if redacting else None
    recorder = Recorder(store, redact=redact)
    graph = RunnableLambda(lambda _: {"said": value})
    graph.invoke(value, {"callbacks": [recorder], "metadata": {"about": value}})
    assert recorder.flush(10)
    assert (recorder.failed, recorder.dropped) == (0, 0)
    [trace] = store.iter_traces()
    [run] = trace.runs
    assert run["inputs"] == kept
    assert run["outputs"] == {"said": kept}
    assert run["extra"]["metadata"]["about"] == kept


def test_a_value_beside_a_secret_stays_exact(recorder: Recorder) -> None:
    graph = RunnableLambda(lambda _: {"wei": WEI, "api_key": "sk-1234567890abcdef12"})
    graph.invoke({}, {"callbacks": [recorder]})
    assert recorder.flush(10)
    [trace] = recorder.store.iter_traces()
    assert trace.runs[0]["outputs"] == {"wei": WEI, "api_key": "[redacted]"}


async def test_an_odd_thread_is_found_by_the_name_it_was_given(recorder: Recorder) -> None:
    graph = app_around(routed_graph(thread_id="t\ud83d", tenant="a\x00b"))
    metadata = {"thread_id": "t\ud83d"}
    await graph.ainvoke(question(HALF), {"callbacks": [recorder], "metadata": metadata})
    assert recorder.flush(10)
    assert recorder.failed == 0
    store = recorder.store
    assert len(store.routes(thread_id="t\ud83d")) == len(store.routes(tenant="a\x00b")) == 1
    assert store.delete("thread", "t\ud83d", dry_run=True)["traces"] == 1


def test_feedback_of_odd_values_is_kept(store: TraceStore) -> None:
    store.record_feedback("t1", f"key {HALF}", 1, value={"wei": WEI, "said": HALF}, comment=HALF)
    [said] = store.feedback("t1")
    assert said["value"] == {"wei": WEI, "said": MENDED}
    assert (said["key"], said["comment"]) == (f"key {MENDED}", MENDED)


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_an_export_holds_them_as_the_store_does(
    recorder: Recorder, tmp_path: Path, form: Any
) -> None:
    asked = AIMessage("", tool_calls=[{"name": "pay", "args": {"wei": WEI}, "id": HALF}])
    RunnableLambda(lambda _: {"messages": [asked]}).invoke({}, {"callbacks": [recorder]})
    assert recorder.flush(10)
    [trace] = recorder.store.iter_traces()
    recorder.store.export(tmp_path / "out", format=form)
    with TraceStore(tmp_path / "copy.db") as copy:
        copy.import_files([tmp_path / "out"])
        assert [found.runs for found in copy.iter_traces()] == [trace.runs]
    assert trace.runs[0]["outputs"]["messages"][0]["tool_calls"][0]["args"] == {"wei": WEI}
