"""The same request through the real LangSmith client and through the recorder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from langsmith import Client, tracing_context

from tests.support.langsmith_server import LangSmithServer
from tests.tracing.routed import Worker, app_around, question, routed_graph
from xrouter_lg.tracing import Recorder, route_records

TRANSPORTS = {
    "zstd multipart": {},
    "plain multipart": {"zstd": False},
    "json batch": {"multipart": False},
}


@pytest.fixture(params=list(TRANSPORTS))
def server(request: pytest.FixtureRequest) -> Iterator[LangSmithServer]:
    with LangSmithServer(**TRANSPORTS[request.param]) as running:
        yield running


@pytest.fixture
def client(server: LangSmithServer) -> Iterator[Client]:
    made = Client(api_url=server.url, api_key="lsv2_pt_test", auto_batch_tracing=True)
    yield made
    made.flush(10)
    made.cleanup()


async def both(client: Client, graph: Any, **config: Any) -> None:
    with tracing_context(enabled=True, client=client, project_name="p"):
        await graph.ainvoke(question(), config)
    client.flush(10)


async def test_both_have_the_same_runs(
    server: LangSmithServer, client: Client, recorder: Recorder
) -> None:
    await both(client, app_around(routed_graph()), callbacks=[recorder])
    recorder.flush(10)
    [trace] = recorder.store.find("")
    ours = {run["id"]: (run["name"], run["run_type"]) for run in recorder.store.runs(trace)}
    theirs = {run["id"]: (run["name"], run["run_type"]) for run in server.runs.values()}
    assert ours == theirs
    assert len(ours) == 7


@pytest.mark.parametrize("command", [True, False])
async def test_both_hold_the_same_route_record(
    server: LangSmithServer, client: Client, recorder: Recorder, command: bool
) -> None:
    await both(client, app_around(routed_graph(command=command)), callbacks=[recorder])
    recorder.flush(10)
    [trace] = recorder.store.find("")
    ours = route_records(recorder.store.runs(trace))
    assert ours == route_records(server.query({"trace": trace}))
    assert len(ours) == 1
    assert ours[0].record == recorder.store.routes()[0].record


async def test_runs_read_back_by_the_client_give_the_same_record(
    server: LangSmithServer, client: Client, recorder: Recorder
) -> None:
    await both(client, app_around(routed_graph()), callbacks=[recorder])
    recorder.flush(10)
    with pytest.warns(DeprecationWarning, match="list_runs"):
        read = list(client.list_runs(project_name="p"))
    [trace] = recorder.store.find("")
    assert route_records(read) == route_records(recorder.store.runs(trace))


async def test_runs_read_through_the_v2_api_give_the_same_record(
    server: LangSmithServer, client: Client, recorder: Recorder
) -> None:
    await both(client, app_around(routed_graph()), callbacks=[recorder])
    recorder.flush(10)
    project = server.session("p")["id"]
    wanted = ["ID", "TRACE_ID", "PARENT_RUN_IDS", "EXTRA", "OUTPUTS", "START_TIME"]
    read = [run async for run in client.runs.query(project_ids=[project], selects=wanted)]
    await client.runs._client.close()  # there is no public way to close its connections
    [trace] = recorder.store.find("")
    assert route_records(read) == route_records(recorder.store.runs(trace))


async def test_metadata_added_inside_the_node_reaches_langsmith(
    server: LangSmithServer, client: Client
) -> None:
    await both(client, app_around(routed_graph()))
    routes = {
        run["name"]: run["extra"]["metadata"].get("xrouter_route") for run in server.runs.values()
    }
    assert (routes.pop("xrouter"), routes.pop("collect")) == ("small", "small")
    assert set(routes.values()) == {None}


async def test_recorder_on_the_node_alone_takes_langsmiths_trace_id(
    server: LangSmithServer, client: Client, recorder: Recorder
) -> None:
    await both(client, app_around(routed_graph(), [recorder]))
    recorder.flush(10)
    [row] = recorder.store.routes()
    [root] = [run for run in server.runs.values() if run.get("parent_run_id") is None]
    assert (row.trace_id, row.record.trace_id) == (root["id"], root["id"])


async def test_usage_metadata_is_the_same_in_both(
    server: LangSmithServer, client: Client, recorder: Recorder
) -> None:
    await both(client, routed_graph(), callbacks=[recorder])
    recorder.flush(10)
    [trace] = recorder.store.find("")
    [ours] = [run for run in recorder.store.runs(trace) if run["run_type"] == "llm"]
    theirs = server.runs[ours["id"]]
    usage = [run["extra"]["metadata"]["usage_metadata"] for run in (ours, theirs)]
    assert usage[0] == usage[1]


async def test_chat_inputs_and_node_outputs_are_the_same_in_both(
    server: LangSmithServer, client: Client, recorder: Recorder
) -> None:
    await both(client, routed_graph(command=False), callbacks=[recorder])
    recorder.flush(10)
    [trace] = recorder.store.find("")
    for run in recorder.store.runs(trace):
        theirs = server.runs[run["id"]]
        if run["name"] == "Worker":
            ours = run["inputs"]["messages"][0][0]["kwargs"]
            assert ours["content"] == theirs["inputs"]["messages"][0][0]["kwargs"]["content"]
        elif run["name"] != "route":  # LangSmith keeps a Send as its repr, the recorder its node
            assert (run["inputs"], run["outputs"]) == (theirs["inputs"], theirs["outputs"])


async def test_an_error_is_described_the_same_way(
    server: LangSmithServer, client: Client, recorder: Recorder
) -> None:
    with pytest.raises(RuntimeError):
        await both(client, routed_graph(Worker(error="boom")), callbacks=[recorder])
    client.flush(10)
    recorder.flush(10)
    [trace] = recorder.store.find("")
    ours = {run["id"]: run["error"] for run in recorder.store.runs(trace)}
    theirs = {run: server.runs[run].get("error") for run in ours}
    failed = {run for run, error in ours.items() if error is not None}
    assert failed == {run for run, error in theirs.items() if error is not None} != set()
    for run in failed:
        assert str(ours[run]).startswith("RuntimeError('boom')")
        assert str(theirs[run]).startswith("RuntimeError('boom')")


async def test_a_langsmith_that_is_down_leaves_the_local_store_complete(
    server: LangSmithServer, client: Client, recorder: Recorder
) -> None:
    server.status = 422
    await both(client, app_around(routed_graph()), callbacks=[recorder])
    recorder.flush(10)
    assert recorder.store.counts()["runs"] == 7


async def test_feedback_sent_by_the_client_arrives(server: LangSmithServer, client: Client) -> None:
    await both(client, routed_graph())
    [run_id] = [run["id"] for run in server.runs.values() if run.get("parent_run_id") is None]
    client.create_feedback(run_id, key="good", score=1.0, session_id=server.session("p")["id"])
    client.flush(10)
    assert [(f.key, f.score) for f in client.list_feedback(run_ids=[run_id])] == [("good", 1.0)]
