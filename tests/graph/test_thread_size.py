"""What a thread keeps of routed answers, beside what it keeps of a plain model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.sqlite import SqliteSaver
from pydantic import SecretStr

from tests.support.apps import app, ask, pool
from xrouter_lg import (
    ChatXRouter,
    ModelPool,
    Recorder,
    TraceStore,
    XRouterMiddleware,
    XRouterNode,
)
from xrouter_lg.episodes.extract import episodes
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall

THREAD: Any = {"configurable": {"thread_id": "1"}}
TURNS = 30
MOST = 1.2


@tool
def look(what: str) -> str:
    """Looks something up."""
    return f"{what} is 42"


@pytest.fixture
def cards(fake: FakeOpenAIServer) -> ModelPool:
    def reply(body: dict[str, Any]) -> Reply | str:
        if body.get("tools") and body["messages"][-1]["role"] == "user":
            return Reply(tool_calls=[ToolCall("look", {"what": "it"})])
        return "Paris."

    fake.add_model(FakeModel(name="small", reply=reply))
    return pool(fake)


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path / "traces.db") as running:
        yield running


def kept(build: Callable[[Any], Any], turns: int = TURNS, **config: Any) -> int:
    """Bytes of everything that a checkpointer holds of a thread of short questions."""
    with SqliteSaver.from_conn_string(":memory:") as saver:
        graph = build(saver)
        for turn in range(turns):
            graph.invoke(ask(f"{turn}: and there?"), {**THREAD, **config})
        sums = [
            saver.conn.execute(f"SELECT coalesce(sum(length({column})), 0) FROM {table}")
            for table, column in (
                ("checkpoints", "checkpoint"),
                ("checkpoints", "metadata"),
                ("writes", "value"),
            )
        ]
        return sum(int(found.fetchone()[0]) for found in sums)


def alone(fake: FakeOpenAIServer) -> ChatOpenAI:
    return ChatOpenAI(model="small", base_url=fake.base_url, api_key=SecretStr("none"))


def plain(fake: FakeOpenAIServer) -> Callable[[Any], Any]:
    model = alone(fake)
    return lambda saver: app(lambda state: {"messages": [model.invoke(state["messages"])]}, saver)


def test_a_thread_of_the_node_grows_like_one_of_a_model(
    cards: ModelPool, fake: FakeOpenAIServer
) -> None:
    node = XRouterNode(cards, policy="cheapest")
    assert kept(lambda saver: app(node, saver)) <= MOST * kept(plain(fake))


@pytest.mark.parametrize("told", ["by the node", "by the app"])
def test_so_does_a_recorded_one_and_its_trace_still_trains(
    cards: ModelPool, fake: FakeOpenAIServer, recorder: Recorder, told: str
) -> None:
    inside = told == "by the node"
    node = XRouterNode(cards, policy="cheapest", traces=recorder if inside else None)
    config: Any = {} if inside else {"callbacks": [recorder]}
    assert kept(lambda saver: app(node, saver), **config) <= MOST * kept(plain(fake))
    recorder.flush(30)
    store: TraceStore = recorder.store
    assert len(store.routes()) == TURNS
    for trace in store.iter_traces():
        [found] = episodes(trace.runs)
        assert (found.route, found.answer, found.propensity) == ("small", "Paris.", 1.0)
        assert found.cost_usd is not None and found.calls[0].usage is not None
        assert found.candidates == ("small", "large")


def test_so_does_a_chat_model_s(cards: ModelPool, fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(cards, policy="cheapest")

    def build(saver: Any) -> Any:
        return app(lambda state: {"messages": [model.invoke(state["messages"])]}, saver)

    assert kept(build) <= MOST * kept(plain(fake))


@pytest.mark.parametrize("form", ["as its model", "as middleware"])
def test_so_does_an_agent_s(cards: ModelPool, fake: FakeOpenAIServer, form: str) -> None:
    small = alone(fake)
    if form == "as its model":
        routed: Any = {"model": ChatXRouter(cards, policy="cheapest")}
    else:
        routed = {"model": small, "middleware": [XRouterMiddleware(cards, policy="cheapest")]}

    def agent(**parts: Any) -> Callable[[Any], Any]:
        return lambda saver: create_agent(tools=[look], checkpointer=saver, **parts)

    assert kept(agent(**routed), 10) <= MOST * kept(agent(model=small), 10)


def test_a_later_request_reads_the_thread_s_own_records(cards: ModelPool) -> None:
    with SqliteSaver.from_conn_string(":memory:") as saver:
        graph = app(XRouterNode(cards, policy="cheapest"), saver)
        live = graph.invoke(ask(), THREAD)["messages"][-1]
        assert live.response_metadata["xrouter"]["charges"][0]["card"] == "small"
        *_, stored = graph.get_state(THREAD).values["messages"]
        assert isinstance(stored, AIMessage)
        record = stored.response_metadata["xrouter"]
        assert record == live.response_metadata["xrouter"]
        assert set(record) == {"route", "cost_usd", "trace_id", "ended_at"}
