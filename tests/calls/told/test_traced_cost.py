"""What an answer has cost stands on its run, where LangSmith looks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langsmith import Client, tracing_context

from tests.support.apps import app, ask, card, pool, scripted
from tests.support.langsmith_server import LangSmithServer
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.calls.told.traced_cost import costs_of
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan, ScriptedChatModel
from xrouter_lg.testing import server_error as broken
from xrouter_lg.tracing import Recorder, TraceStore


@pytest.fixture
def langsmith() -> Iterator[LangSmithServer]:
    with LangSmithServer() as running:
        yield running


@pytest.fixture
def client(langsmith: LangSmithServer) -> Iterator[Client]:
    made = Client(api_url=langsmith.url, api_key="lsv2_pt_test")
    yield made
    made.cleanup()


async def runs_of(
    graph: Any, langsmith: LangSmithServer, client: Client, **config: Any
) -> list[dict[str, Any]]:
    with tracing_context(enabled=True, client=client, project_name="p"):
        await graph.ainvoke(ask(), config)
    client.flush(10)
    return list(langsmith.runs.values())


def model_run(runs: list[dict[str, Any]]) -> dict[str, Any]:
    [found] = [run for run in runs if run["run_type"] == "llm" and not run.get("error")]
    return found["extra"]["metadata"]["usage_metadata"]


def root_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    [root] = [run for run in runs if run.get("parent_run_id") is None]
    return root["extra"]["metadata"]


async def test_a_models_run_says_what_it_cost_in_numbers(
    fake: FakeOpenAIServer, langsmith: LangSmithServer, client: Client
) -> None:
    fake.add_model(FakeModel(name="small", prompt_tokens=100, completion_tokens=10))
    usage = model_run(await runs_of(app(XRouterNode(pool(fake))), langsmith, client))
    costs = {name: usage[name] for name in ("input_cost", "output_cost", "total_cost")}
    assert costs == {"input_cost": 1e-4, "output_cost": 2e-5, "total_cost": 1.2e-4}


async def test_the_recorder_keeps_what_langsmith_gets(
    fake: FakeOpenAIServer, langsmith: LangSmithServer, client: Client, tmp_path: Any
) -> None:
    graph = app(XRouterNode(pool(fake)))
    with Recorder(tmp_path / "t.db") as recorder:
        metadata = {"app": "shop"}
        sent = await runs_of(graph, langsmith, client, callbacks=[recorder], metadata=metadata)
        recorder.flush(10)
        assert (recorder.failed, recorder.dropped) == (0, 0)
    with TraceStore(tmp_path / "t.db") as store:
        [trace] = store.iter_traces()
    assert len(trace.runs) == len(sent)
    assert model_run(trace.runs) == model_run(sent)
    assert root_of(trace.runs)["xrouter_cost_usd"] == root_of(sent)["xrouter_cost_usd"]


async def test_the_apps_own_message_has_tokens_only(
    fake: FakeOpenAIServer, langsmith: LangSmithServer, client: Client
) -> None:
    graph = app(XRouterNode(pool(fake)))
    with tracing_context(enabled=True, client=client, project_name="p"):
        state = await graph.ainvoke(ask())
        chunks = [c async for c, _ in graph.astream(ask(), stream_mode="messages")]
    for message in (state["messages"][-1], *chunks):
        assert not {"total_cost", "input_cost"} & set(message.usage_metadata or {})


async def test_an_unknown_cost_is_left_to_langsmith(
    fake: FakeOpenAIServer, langsmith: LangSmithServer, client: Client
) -> None:
    priceless = ModelPool([card(fake, "small", price=None)])
    usage = model_run(await runs_of(app(XRouterNode(priceless)), langsmith, client))
    assert usage["input_tokens"] > 0
    assert "total_cost" not in usage


def test_a_sum_that_the_provider_names_is_not_split() -> None:
    usage: Any = {"input_tokens": 10, "output_tokens": 10, "total_tokens": 20}
    meta = {"token_usage": {"cost": 0.25, "prompt_tokens": 10, "completion_tokens": 10}}
    message = AIMessage("x", usage_metadata=usage, response_metadata=meta)
    assert costs_of(message, scripted("small"), ()) == {"total_cost": 0.25}


def test_kinds_of_tokens_stand_on_their_side() -> None:
    usage: Any = {
        "input_tokens": 100,
        "output_tokens": 50,
        "total_tokens": 150,
        "input_token_details": {"cache_read": 80},
        "output_token_details": {"reasoning": 40},
    }
    costs = costs_of(AIMessage("x", usage_metadata=usage), scripted("large"), ())
    assert costs["input_cost"] == pytest.approx((20 * 10 + 80 * 5) / 1e6)
    assert costs["output_cost"] == pytest.approx((10 * 30 + 40 * 40) / 1e6)
    assert costs["total_cost"] == pytest.approx(costs["input_cost"] + costs["output_cost"])


async def test_several_answers_of_one_call_lose_no_run(
    langsmith: LangSmithServer, client: Client
) -> None:
    class Twice(ScriptedChatModel):
        def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
            made = super()._generate(*args, **kwargs)
            first = made.generations[0]
            assert isinstance(first, ChatGeneration)
            return ChatResult(generations=[first, first])

    twice = ModelCard(
        name="twice",
        model=Twice(script=lambda _: "hi"),
        price={"input": 1, "output": 1},
        max_retries=0,
    )
    sent = await runs_of(app(XRouterNode(ModelPool([twice]))), langsmith, client)
    assert sent
    assert [run["name"] for run in sent if not run.get("end_time")] == []


async def test_route_and_cost_stand_on_the_root(
    fake: FakeOpenAIServer, langsmith: LangSmithServer, client: Client
) -> None:
    fake.add_model(FakeModel(name="small", prompt_tokens=100, completion_tokens=10))
    root = root_of(await runs_of(app(XRouterNode(pool(fake))), langsmith, client))
    told = {name: value for name, value in root.items() if name.startswith("xrouter_")}
    assert told == {
        "xrouter_requests": 1,
        "xrouter_route": "small",
        "xrouter_cost_usd": "0.00012",
        "xrouter_known_cost_usd": "0.00012",
    }


async def test_a_failed_attempt_does_not_erase_what_is_known(
    fake: FakeOpenAIServer, langsmith: LangSmithServer, client: Client
) -> None:
    fake.add_model(FakeModel(name="large", prompt_tokens=100, completion_tokens=10))
    fake.faults = FaultPlan({"small": broken()})
    root = root_of(await runs_of(app(XRouterNode(pool(fake))), langsmith, client))
    assert (root["xrouter_route"], root["xrouter_cost_usd"]) == ("large", None)
    assert root["xrouter_known_cost_usd"] == "0.0013"


async def test_costs_of_several_requests_add_up_on_the_root(
    fake: FakeOpenAIServer, langsmith: LangSmithServer, client: Client
) -> None:
    from langgraph.graph import END, START, MessagesState, StateGraph

    fake.add_model(FakeModel(name="small", prompt_tokens=100, completion_tokens=10))
    fake.add_model(FakeModel(name="large", prompt_tokens=100, completion_tokens=10))
    builder = StateGraph(MessagesState)
    builder.add_node("draft", XRouterNode(pool(fake), policy="fixed:small"))
    builder.add_node("again", lambda state: {"messages": [HumanMessage("Better?")]})
    builder.add_node("final", XRouterNode(pool(fake), policy="fixed:large"))
    for one, other in (START, "draft"), ("draft", "again"), ("again", "final"), ("final", END):
        builder.add_edge(one, other)
    root = root_of(await runs_of(builder.compile(), langsmith, client))
    assert (root["xrouter_requests"], root["xrouter_route"]) == (2, "large")
    assert root["xrouter_cost_usd"] == root["xrouter_known_cost_usd"] == "0.00142"


async def test_calls_at_once_leave_the_recorder_as_it_was_and_each_its_own_cost(
    fake: FakeOpenAIServer, tmp_path: Path
) -> None:
    for name, tokens in (("small", 100), ("large", 700)):
        fake.add_model(FakeModel(name=name, prompt_tokens=tokens, completion_tokens=10))
    with Recorder(tmp_path / "traces.db") as recorder:
        graphs = {n: app(XRouterNode(pool(fake), policy=f"fixed:{n}")) for n in ("small", "large")}
        names = ["small", "large"] * 10
        config: Any = {"callbacks": [recorder]}
        states = await asyncio.gather(*(graphs[name].ainvoke(ask(), config) for name in names))
        recorder.flush(10)
        assert type(recorder) is Recorder
        with TraceStore(tmp_path / "traces.db") as store:
            runs = [run for trace in store.iter_traces() for run in trace.runs]
    told = sorted(
        run["extra"]["metadata"]["usage_metadata"]["total_cost"]
        for run in runs
        if run["run_type"] == "llm"
    )
    billed = [state["messages"][-1].response_metadata["xrouter"]["cost_usd"] for state in states]
    assert told == pytest.approx(sorted(map(float, billed)))
    assert len(set(told)) == 2
