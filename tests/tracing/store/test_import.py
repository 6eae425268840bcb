"""Runs and feedback from elsewhere into the store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langsmith import Client, tracing_context

from tests.support.langsmith_server import LangSmithServer
from tests.tracing.routed import a_record, app_around, question, routed_graph
from xrouter_lg.errors import StoreError
from xrouter_lg.tracing import Recorder, TraceStore, redact_patterns
from xrouter_lg.tracing.runs.importing import feedback_said

START = "2026-11-01T00:00:00.000000+00:00"
END = "2026-11-01T00:00:01.000000+00:00"

SELECTED = [
    *("ID", "TRACE_ID", "PARENT_RUN_IDS", "DOTTED_ORDER", "NAME", "RUN_TYPE", "START_TIME"),
    *("END_TIME", "STATUS", "EXTRA", "INPUTS", "OUTPUTS", "TAGS"),
]


@pytest.fixture
def other(tmp_path: Path) -> Any:
    with TraceStore(tmp_path / "other.db") as opened:
        yield opened


def a_run(run_id: str = "r", **changes: Any) -> dict[str, Any]:
    return {"id": run_id, "name": "n", "start_time": START, "end_time": END, **changes}


def collecting(run_id: str, parent: str | None, **changes: Any) -> dict[str, Any]:
    """A run with a route record, as the router's last node writes it."""
    record = a_record(**changes).to_dict()
    message = {"type": "ai", "content": "x", "response_metadata": {"xrouter": record}}
    return a_run(
        run_id,
        trace_id="t",
        parent_run_id=parent,
        extra={"metadata": {"xrouter_role": "collect"}},
        outputs={"messages": [message]},
    )


def recorded(recorder: Recorder, **changes: Any) -> str:
    """A routed request's trace id."""
    known = set(recorder.store.find("", limit=1000))
    app = app_around(routed_graph(**changes))
    asyncio.run(app.ainvoke(question(), {"callbacks": [recorder], "tags": ["beta"]}))
    recorder.flush(10)
    [trace] = set(recorder.store.find("", limit=1000)) - known
    return trace


def test_runs_of_one_store_are_the_same_in_another(
    recorder: Recorder, store: TraceStore, other: TraceStore
) -> None:
    trace = recorded(recorder)
    counts = other.import_runs(store.runs(trace))
    assert counts == {"runs": 7, "new_runs": 7, "traces": 1, "routes": 1}
    assert other.runs(trace) == store.runs(trace)
    assert other.routes() == store.routes()
    assert other.routes(tag="beta") == store.routes(tag="beta") != []


def test_importing_twice_changes_nothing(
    recorder: Recorder, store: TraceStore, other: TraceStore
) -> None:
    runs = store.runs(recorded(recorder))
    other.import_runs(runs)
    before = (other.counts(), list(other.iter_traces()), other.routes())
    assert other.import_runs(runs)["new_runs"] == 0
    assert (other.counts(), list(other.iter_traces()), other.routes()) == before


async def test_what_langsmith_gives_back_makes_the_same_store(
    recorder: Recorder, store: TraceStore, other: TraceStore
) -> None:
    with LangSmithServer() as server:
        client = Client(api_url=server.url, api_key="lsv2_pt_test")
        with tracing_context(enabled=True, client=client, project_name="p"):
            await app_around(routed_graph()).ainvoke(question(), {"callbacks": [recorder]})
        client.flush(10)
        recorder.flush(10)
        with pytest.warns(DeprecationWarning, match="list_runs"):
            first = list(client.list_runs(project_name="p"))
        second = [
            run
            async for run in client.runs.query(
                project_ids=[server.session("p")["id"]],
                selects=SELECTED,
            )
        ]
        await client.runs._client.close()  # there is no public way to close its connections
        client.cleanup()
    [trace] = store.find("")
    for runs in (first, second):
        other.import_runs(runs, project="default")
        assert [
            {key: run[key] for key in ("id", "parent_run_id", "name", "run_type", "status")}
            for run in other.runs(trace)
        ] == [
            {key: run[key] for key in ("id", "parent_run_id", "name", "run_type", "status")}
            for run in store.runs(trace)
        ]
        assert other.routes() == store.routes()
        other.delete("trace", trace)


def test_a_run_that_is_not_finished_never_replaces_a_finished_one(store: TraceStore) -> None:
    store.import_runs([a_run(outputs={"a": 1})])
    store.import_runs([a_run(end_time=None)])
    [run] = store.runs("r")
    assert (run["status"], run["outputs"]) == ("success", {"a": 1})


def test_a_finished_run_replaces_one_that_was_not(store: TraceStore) -> None:
    store.import_runs([a_run(end_time=None)])
    assert store.runs("r")[0]["status"] == "pending"
    store.import_runs([a_run(outputs={"a": 1})])
    assert store.runs("r")[0]["outputs"] == {"a": 1}


def test_hidden_inputs_and_outputs_never_replace_those_that_are_here(store: TraceStore) -> None:
    store.import_runs([a_run(inputs={"q": 1}, outputs={"a": 1})])
    store.import_runs([a_run(inputs={}, outputs={}, name="again")])
    [run] = store.runs("r")
    assert (run["name"], run["inputs"], run["outputs"]) == ("again", {"q": 1}, {"a": 1})


def test_the_cursor_is_stored_with_the_runs_or_not_at_all(store: TraceStore) -> None:
    assert store.cursor("pull") is None
    store.import_runs([a_run()], cursor=("pull", {"page": 1}))
    with pytest.raises(StoreError, match="no start_time"):
        store.import_runs([a_run("s"), {"id": "broken"}], cursor=("pull", {"page": 2}))
    assert store.cursor("pull") == {"page": 1}
    assert store.runs("s") == []
    store.import_feedback([{"id": "f", "run_id": "r", "key": "k"}], cursor=("pull", {"page": 3}))
    assert store.cursor("pull") == {"page": 3}


@pytest.mark.parametrize("parent_first", [True, False])
def test_a_run_below_a_collecting_one_adds_no_route(store: TraceStore, parent_first: bool) -> None:
    pages = [[collecting("c", "router")], [collecting("below", "c")]]
    for page in pages if parent_first else reversed(pages):
        store.import_runs(page)
    assert [(row.id, row.run_id) for row in store.routes()] == [("c", "router")]


def test_redaction_comes_before_the_import(store: TraceStore) -> None:
    hide = redact_patterns(r"[\w.]+@[\w.]+")
    run = collecting("c", None, thread_id="jo@example.org")
    run["inputs"] = {"q": "jo@example.org", "key": "sk-planted-0123456789abcdefghij"}
    store.import_runs([run], redact=hide)
    stored = str(store.runs("t")) + str(store.routes())
    assert "jo@" not in stored and "sk-planted" not in stored
    assert store.routes()[0].record.thread_id == "[redacted]"


def test_langsmiths_own_figures_are_kept(store: TraceStore) -> None:
    store.import_runs([a_run(total_cost="0.0012", session_id="s", first_token_time=START)])
    [run] = store.runs("r")
    assert (run["total_cost"], run["session_id"]) == ("0.0012", "s")


def test_json_text_naive_times_and_upper_case_are_understood(store: TraceStore) -> None:
    run = a_run(run_type="LLM", inputs='{"q": 1}', tags='["a"]', start_time="2026-11-01T02:00:00")
    store.import_runs([{**run, "end_time": datetime(2026, 11, 1, 3, tzinfo=UTC)}])
    [stored] = store.runs("r")
    assert (stored["run_type"], stored["inputs"], stored["tags"]) == ("llm", {"q": 1}, ["a"])
    assert stored["start_time"] == "2026-11-01T02:00:00.000000+00:00"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"name": "x"}, "without an id"),
        ({"id": "r"}, "run r can't be imported: it has no start_time"),
        (a_run(inputs="{oops"), "run r: inputs holds text that is no JSON"),
        (a_run(start_time="yesterday"), "start_time 'yesterday' is no ISO 8601 time"),
    ],
)
def test_a_run_that_can_t_be_read_is_named(
    store: TraceStore, run: dict[str, Any], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        store.import_runs([run])


# --- feedback ------------------------------------------------------------------------------


def test_feedback_is_idempotent_and_finds_its_trace_by_the_run(store: TraceStore) -> None:
    store.import_runs([a_run("child", trace_id="t")])
    entry = {
        "id": "f",
        "run_id": "child",
        "key": "good",
        "score": True,
        "value": {"exact": [0.1]},
        "feedback_source": {"type": "model"},
        "created_at": "2026-11-02T00:00:00Z",
    }
    assert store.import_feedback([entry]) == {"feedback": 1, "new_feedback": 1}
    assert store.import_feedback([entry]) == {"feedback": 1, "new_feedback": 0}
    [stored] = store.feedback("t")
    assert (stored["score"], stored["value"], stored["source"]) == (1.0, {"exact": [0.1]}, "model")
    assert store.import_feedback(store.feedback("t"))["new_feedback"] == 0
    assert store.feedback("t") == [stored]


def test_feedback_tells_which_user_gave_it_where_langsmith_does() -> None:
    entry = {"key": "good", "score": 1, "trace_id": "t"}
    assert feedback_said(entry)["source"] == "api"
    given = {**entry, "feedback_source": {"type": "app", "user_id": "u7"}}
    assert feedback_said(given)["source"] == "app:u7"
    assert feedback_said({**given, "source": "ours"})["source"] == "ours"


def test_feedback_on_traces_that_are_not_here_is_counted(store: TraceStore) -> None:
    store.import_runs([a_run("here", trace_id="here")])
    store.record_feedback("here", "good", 1.0)
    store.record_feedback("gone", "good", 1.0)
    assert store.count_stray_feedback() == 1
    store.import_runs([a_run("gone", trace_id="gone")])
    assert store.count_stray_feedback() == 0


def test_feedback_on_a_trace_alone_is_on_its_root() -> None:
    said = feedback_said({"key": "good", "score": 1, "trace_id": "t"})
    assert (said["run_id"], said["trace_id"], said["score"]) == ("t", "t", 1.0)


async def test_feedback_of_langsmiths_client_is_taken_as_it_comes(store: TraceStore) -> None:
    with LangSmithServer() as server:
        client = Client(api_url=server.url, api_key="lsv2_pt_test")
        with tracing_context(enabled=True, client=client, project_name="p"):
            await app_around(routed_graph()).ainvoke(question())
        client.flush(10)
        [trace] = {run["trace_id"] for run in server.runs.values()}
        session = server.session("p")["id"]
        client.create_feedback(trace, key="good", score=0.5, session_id=session, comment="so so")
        client.flush(10)
        store.import_feedback(client.list_feedback(run_ids=[trace]))
        client.cleanup()
    [entry] = store.feedback(trace)
    assert (entry["key"], entry["score"], entry["comment"]) == ("good", 0.5, "so so")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": "f", "run_id": "r"}, "needs an id, a key and a run id"),
        ({"id": "f", "run_id": "r", "key": "k", "score": float("nan")}, "not a finite number"),
    ],
)
def test_feedback_that_says_nothing_is_refused(
    store: TraceStore, entry: dict[str, Any], message: str
) -> None:
    with pytest.raises(StoreError, match=message):
        store.import_feedback([entry])


# --- reading it all ------------------------------------------------------------------------


def hour(number: int) -> str:
    return f"2026-11-01T{number:02}:00:00.000000+00:00"


def test_traces_come_by_their_start_with_runs_and_feedback(store: TraceStore) -> None:
    for number in (3, 1, 4, 0, 2):
        store.import_runs(
            [
                a_run(f"b{number}", trace_id=f"t{number}", start_time=hour(number + 5)),
                a_run(f"a{number}", trace_id=f"t{number}", start_time=hour(number)),
            ]
        )
        store.record_feedback(f"t{number}", "k", float(number))
    for batch in (1, 2, 5, 100):
        read = list(store.iter_traces(batch=batch))
        assert [trace.id for trace in read] == ["t0", "t1", "t2", "t3", "t4"]
        assert [run["id"] for run in read[3].runs] == ["a3", "b3"]
        assert [entry["score"] for entry in read[3].feedback] == [3.0]


def test_traces_of_the_same_moment_are_all_read(store: TraceStore) -> None:
    store.import_runs([a_run(f"r{number}") for number in range(5)])
    assert [trace_id for trace_id, _, _ in store.iter_traces(batch=2)] == [
        f"r{n}" for n in range(5)
    ]


def test_since_until_and_project_choose_traces(store: TraceStore) -> None:
    for number in range(4):
        project = "prod" if number % 2 else "test"
        store.import_runs([a_run(f"r{number}", start_time=hour(number))], project=project)
    since, until = (datetime(2026, 11, 1, n, tzinfo=UTC) for n in (1, 3))
    assert [t.id for t in store.iter_traces(since=since, until=until)] == ["r1", "r2"]
    assert [t.id for t in store.iter_traces(project="prod")] == ["r1", "r3"]


def test_reading_holds_one_batch_at_a_time(store: TraceStore) -> None:
    store.import_runs([a_run(f"r{number}", start_time=hour(number)) for number in range(9)])
    reading = store.iter_traces(batch=3)
    next(reading)
    store.delete("trace", "r8")  # not read yet: it was not held
    assert [trace.id for trace in reading] == [f"r{number}" for number in range(1, 8)]
