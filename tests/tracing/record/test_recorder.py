"""What the recorder keeps of a request, and what it leaves alone."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from tests.support.waiting import comes_about
from tests.tracing.routed import USAGE, Worker, app_around, question, routed_graph
from xrouter_lg.tracing import Recorder, TraceStore


async def recorded(graph: Any, recorder: Recorder, **config: Any) -> list[dict[str, Any]]:
    """The runs of one request, through the whole app."""
    await graph.ainvoke(question(), {"callbacks": [recorder], **config})
    return written(recorder)


def written(recorder: Recorder) -> list[dict[str, Any]]:
    """Every run of the latest trace."""
    assert recorder.flush(10)
    [*_, latest] = recorder.store.find("", limit=1000)
    return recorder.store.runs(latest)


def names(runs: list[dict[str, Any]]) -> list[str]:
    return [run["name"] for run in runs]


async def test_every_run_of_a_request_is_stored_under_its_parent(recorder: Recorder) -> None:
    runs = await recorded(app_around(routed_graph()), recorder)
    by_id = {run["id"]: run for run in runs}
    parents = {run["name"]: by_id.get(run["parent_run_id"], {}).get("name") for run in runs}
    assert parents == {
        "app": None,
        "model": "app",
        "xrouter": "model",
        "route": "xrouter",
        "call_small": "xrouter",
        "Worker": "call_small",
        "collect": "xrouter",
    }
    assert {run["status"] for run in runs} == {"success"}


async def test_a_chat_model_run_has_langsmiths_type_and_layout(recorder: Recorder) -> None:
    runs = await recorded(routed_graph(), recorder)
    [llm] = [run for run in runs if run["run_type"] == "llm"]
    assert llm["inputs"]["messages"][0][0]["kwargs"]["content"] == "hello"
    assert llm["outputs"]["generations"][0][0]["message"]["kwargs"]["content"] == "fine"
    assert llm["extra"]["invocation_params"]["model_name"] == "worker-1"


async def test_usage_is_copied_to_metadata_and_columns(recorder: Recorder) -> None:
    runs = await recorded(routed_graph(), recorder)
    [llm] = [run for run in runs if run["run_type"] == "llm"]
    assert llm["extra"]["metadata"]["usage_metadata"] == USAGE
    assert (llm["prompt_tokens"], llm["completion_tokens"], llm["total_tokens"]) == (11, 7, 18)


async def test_float_costs_in_usage_do_not_lose_the_run(recorder: Recorder) -> None:
    class Priced(Worker):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            result = super()._generate(*args, **kwargs)
            one = result.generations[0]
            assert isinstance(one.message, AIMessage)
            priced: Any = {**USAGE, "input_cost": 0.1}
            one.message.usage_metadata = priced
            result.generations.append(one)
            return result

    runs = await recorded(routed_graph(Priced()), recorder)
    [llm] = [run for run in runs if run["run_type"] == "llm"]
    assert (llm["status"], llm["total_tokens"]) == ("success", 18)


async def test_the_route_record_lands_in_its_own_table(recorder: Recorder) -> None:
    runs = await recorded(routed_graph(thread_id="t1"), recorder)
    [row] = recorder.store.routes()
    by_name = {run["name"]: run["id"] for run in runs}
    assert (row.id, row.run_id) == (by_name["collect"], by_name["xrouter"])
    assert (row.record.route, row.record.cost_usd) == ("small", "0.0000012")
    assert (row.input_tokens, row.output_tokens) == (11, 7)
    assert row.created_at.timestamp() == row.record.started_at


async def test_a_node_that_returns_a_dict_is_read_like_one_that_returns_a_command(
    recorder: Recorder,
) -> None:
    await recorded(routed_graph(command=False), recorder)
    assert len(recorder.store.routes()) == 1


async def test_metadata_added_while_a_run_is_open_is_stored(recorder: Recorder) -> None:
    runs = await recorded(app_around(routed_graph()), recorder)
    annotated = {run["name"] for run in runs if "xrouter_route" in run["extra"]["metadata"]}
    assert annotated == {"xrouter", "collect"}


async def test_attached_to_one_node_the_router_is_the_root(recorder: Recorder) -> None:
    await app_around(routed_graph(), [recorder]).ainvoke(question())
    runs = written(recorder)
    assert names(runs)[0] == "xrouter"
    assert "app" not in names(runs)
    assert runs[0]["trace_id"] == runs[0]["id"]


async def test_attached_to_app_and_node_nothing_is_recorded_twice(recorder: Recorder) -> None:
    runs = await recorded(app_around(routed_graph(), [recorder]), recorder)
    assert len(runs) == len(set(names(runs))) == 7


async def test_the_record_names_the_stores_trace_and_router_run(recorder: Recorder) -> None:
    await recorded(app_around(routed_graph()), recorder)
    [row] = recorder.store.routes()
    assert (row.record.trace_id, row.record.run_id) == (row.trace_id, row.run_id)


def test_a_sync_graph_is_recorded_too(recorder: Recorder) -> None:
    def model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [Worker().invoke(state["messages"])]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", model)
    builder.add_edge(START, "model")
    builder.compile().invoke(question(), {"callbacks": [recorder]})
    assert names(written(recorder)) == ["LangGraph", "model", "Worker"]


async def test_a_run_id_given_by_the_caller_is_the_trace_id(recorder: Recorder) -> None:
    wanted = "01890000-0000-7000-8000-000000000001"
    runs = await recorded(routed_graph(), recorder, run_id=wanted)
    assert {run["trace_id"] for run in runs} == {wanted}


async def test_an_error_is_recorded_with_its_repr(recorder: Recorder) -> None:
    with pytest.raises(RuntimeError):
        await routed_graph(Worker(error="boom")).ainvoke(question(), {"callbacks": [recorder]})
    failed = [run for run in written(recorder) if run["status"] == "error"]
    assert {run["name"] for run in failed} == {"xrouter", "call_small", "Worker"}
    assert all(run["error"].startswith("RuntimeError('boom')") for run in failed)


async def test_a_message_changed_after_the_run_is_stored_as_it_was(recorder: Recorder) -> None:
    async def before(message: HumanMessage) -> HumanMessage:
        return message

    message = HumanMessage("as asked", response_metadata={"nested": {"a": 1}})
    await RunnableLambda(before).ainvoke(message, {"callbacks": [recorder]})
    message.content = "changed"
    message.response_metadata["nested"]["a"] = 2
    [run] = written(recorder)
    for side in ("inputs", "outputs"):
        [stored] = run[side].values()
        assert (stored["content"], stored["response_metadata"]) == (
            "as asked",
            {"nested": {"a": 1}},
        )


async def test_a_state_changed_during_the_run_is_stored_as_it_came_in(recorder: Recorder) -> None:
    async def grow(state: dict[str, Any]) -> dict[str, Any]:
        state["items"].append("late")
        return {"items": ["out"]}

    await RunnableLambda(grow).ainvoke({"items": ["early"]}, {"callbacks": [recorder]})
    [run] = written(recorder)
    assert run["inputs"] == {"items": ["early"]}


async def test_a_value_that_no_json_knows_becomes_a_string(recorder: Recorder) -> None:
    odd = {"object": object(), "set": {1}, ("a", 1): 2, "lone": "\ud800", "big": 2**70, "nul": "\0"}
    await RunnableLambda(lambda _: odd).ainvoke({}, {"callbacks": [recorder]})
    [run] = written(recorder)
    assert run["outputs"]["object"].startswith("<object object")
    assert (run["outputs"]["set"], run["outputs"]["('a', 1)"]) == ([1], 2)


async def test_a_value_that_raises_when_looked_at_does_not_lose_the_run(
    recorder: Recorder,
) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise ValueError("no")

        __repr__ = __str__

    await RunnableLambda(lambda _: {"x": Hostile()}).ainvoke({}, {"callbacks": [recorder]})
    [run] = written(recorder)
    assert (run["status"], recorder.failed) == ("success", 0)


async def test_a_tool_is_recorded_with_its_arguments(recorder: Recorder) -> None:
    @tool
    def add(a: int, b: int) -> int:
        """Add."""
        return a + b

    await add.ainvoke({"a": 1, "b": 2}, {"callbacks": [recorder]})
    [run] = written(recorder)
    assert (run["run_type"], run["inputs"], run["outputs"]) == (
        "tool",
        {"a": 1, "b": 2},
        {"output": 3},
    )


async def test_inputs_that_arrive_as_a_stream_are_complete(recorder: Recorder) -> None:
    async def pieces() -> Any:
        yield "one "
        yield "two"

    async def upper(chunks: Any) -> Any:
        async for chunk in chunks:
            yield chunk.upper()

    from langchain_core.runnables import RunnableGenerator

    chain = RunnableGenerator(upper)
    assert [c async for c in chain.atransform(pieces(), {"callbacks": [recorder]})]
    [run] = written(recorder)
    assert (run["inputs"], run["outputs"]) == ({"input": "one two"}, {"output": "ONE TWO"})


async def test_nothing_is_kept_in_memory_after_a_request(recorder: Recorder) -> None:
    await recorded(app_around(routed_graph()), recorder)
    with pytest.raises(RuntimeError):
        await routed_graph(Worker(error="x")).ainvoke(question(), {"callbacks": [recorder]})
    assert (recorder.run_map, recorder.order_map) == ({}, {})


async def test_a_cancelled_request_leaves_nothing_in_memory(recorder: Recorder) -> None:
    graph = app_around(routed_graph(Worker(delay_s=30)))
    task = asyncio.create_task(graph.ainvoke(question(), {"callbacks": [recorder]}))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert recorder.run_map == {}


async def test_a_child_that_never_ended_is_swept_with_its_root(recorder: Recorder) -> None:
    from uuid import uuid4

    root, child = uuid4(), uuid4()
    recorder.on_chain_start(None, {}, run_id=root, name="root")
    recorder.on_chain_start(None, {}, run_id=child, parent_run_id=root, name="lost")
    recorder.on_chain_end({}, run_id=root)
    recorder.on_chain_end({}, run_id=child)
    assert recorder.run_map == {}
    assert {run["name"]: run["status"] for run in written(recorder)} == {
        "root": "success",
        "lost": "pending",
    }


async def test_a_long_request_shows_as_pending_before_it_ends(recorder: Recorder) -> None:
    go_on = asyncio.Event()

    class Waits(Worker):
        async def _agenerate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
            await go_on.wait()
            return await super()._agenerate(messages, *args, **kwargs)

    task = asyncio.create_task(routed_graph(Waits()).ainvoke(question(), {"callbacks": [recorder]}))
    pending = [("xrouter", "pending"), ("route", "success")]

    def shown() -> list[tuple[Any, Any]]:
        runs = written(recorder) if recorder.store.find("", limit=1) else []
        return [(run["name"], run["status"]) for run in runs]

    await comes_about(lambda: shown() == pending)
    go_on.set()
    await task
    assert {run["status"] for run in written(recorder)} == {"success"}


async def test_streamed_tokens_leave_the_time_of_the_first_one_only(recorder: Recorder) -> None:
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel

    model = GenericFakeChatModel(messages=iter([AIMessage("one two three")]))
    assert [c async for c in model.astream("hi", {"callbacks": [recorder]})]
    [run] = written(recorder)
    assert [event["name"] for event in run["events"]] == ["new_token"]


async def test_a_thousand_concurrent_requests_are_all_stored(recorder: Recorder) -> None:
    graph = app_around(routed_graph(Worker(delay_s=0.05)))
    config: RunnableConfig = {"callbacks": [recorder]}
    await asyncio.gather(*(graph.ainvoke(question(str(i)), dict(config)) for i in range(1000)))
    assert recorder.flush(60)
    assert (recorder.dropped, recorder.failed) == (0, 0)
    counts = {"traces": 1000, "runs": 7000, "routes": 1000, "feedback": 0}
    assert recorder.store.counts() == counts


def test_threads_share_one_recorder(recorder: Recorder) -> None:
    from concurrent.futures import ThreadPoolExecutor

    chain = RunnableLambda(lambda x: x)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: chain.invoke(i, {"callbacks": [recorder]}), range(400)))
    recorder.flush(10)
    assert recorder.store.counts()["runs"] == 400


def test_a_request_never_waits_for_the_disk(store: TraceStore) -> None:
    with Recorder(store) as recorder:
        slow, go_on = store.write, threading.Event()

        def stuck(*args: Any) -> None:
            assert go_on.wait(60)
            slow(*args)

        store.write = stuck  # type: ignore[method-assign,assignment]
        for _ in range(3):
            RunnableLambda(lambda x: x).invoke(1, {"callbacks": [recorder]})
        go_on.set()
        assert recorder.flush(60)
        assert store.counts()["runs"] == 3
