"""The node, the wired router and an agent under LangGraph's Postgres checkpointer, on a real
server: threads go on in another connection, and nothing is paid twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from tests.support.apps import app, ask, pool, record
from xrouter_lg import Budget, ChatXRouter, ModelPool, Router, XRouterNode, add_router
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall

PostgresSaver = pytest.importorskip("langgraph.checkpoint.postgres").PostgresSaver
AsyncPostgresSaver = pytest.importorskip("langgraph.checkpoint.postgres.aio").AsyncPostgresSaver

THREAD: Any = {"configurable": {"thread_id": "1"}}


@tool
def look(what: str) -> str:
    """Looks something up."""
    return f"{what} is 42"


def node(cards: ModelPool, saver: Any, **options: Any) -> Any:
    return app(XRouterNode(cards, policy="cheapest", **options), saver)


def wired(cards: ModelPool, saver: Any, **options: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_edge(START, add_router(builder, Router(cards, "cheapest", **options)))
    return builder.compile(checkpointer=saver)


def agent(cards: ModelPool, saver: Any, **options: Any) -> Any:
    model = ChatXRouter(cards, policy="cheapest", **options)
    return create_agent(model, tools=[look], checkpointer=saver)


@pytest.fixture
def cards(fake: FakeOpenAIServer) -> ModelPool:
    def reply(body: dict[str, Any]) -> Reply | str:
        last = body["messages"][-1]
        if body.get("tools") and last["role"] == "user":
            return Reply(tool_calls=[ToolCall("look", {"what": "it"})])
        return f"after {len(body['messages'])}"

    fake.add_model(FakeModel(name="small", reply=reply))
    return pool(fake)


@pytest.mark.parametrize("build", [node, wired, agent], ids=["node", "wired", "agent"])
def test_a_thread_goes_on_in_another_connection(
    build: Callable[..., Any], cards: ModelPool, fake: FakeOpenAIServer, postgres_url: str
) -> None:
    with PostgresSaver.from_conn_string(postgres_url) as saver:
        saver.setup()
        build(cards, saver).invoke(ask(), THREAD)
    calls = sum(fake.calls.values())
    with PostgresSaver.from_conn_string(postgres_url) as saver:
        again = build(cards, saver)
        said = again.get_state(THREAD).values["messages"]
        assert said[-1].response_metadata["xrouter"]["route"] == "small"
        assert sum(fake.calls.values()) == calls
        state = again.invoke(ask(), THREAD)
    assert len(state["messages"]) == 2 * len(said)
    assert [m.id for m in state["messages"][: len(said)]] == [m.id for m in said]


@pytest.mark.parametrize("build", [node, wired], ids=["node", "wired"])
async def test_a_human_is_waited_for_across_connections(
    build: Callable[..., Any], cards: ModelPool, fake: FakeOpenAIServer, postgres_url: str
) -> None:
    budget = Budget(per_request_usd="0.000001", on_exceeded="interrupt")
    async with AsyncPostgresSaver.from_conn_string(postgres_url) as saver:
        await saver.setup()
        state = await build(cards, saver, budget=budget).ainvoke(ask(), THREAD)
        assert state["__interrupt__"][0].value["limit_usd"] == "0.000001"
    assert not fake.calls
    async with AsyncPostgresSaver.from_conn_string(postgres_url) as saver:
        state = await build(cards, saver, budget=budget).ainvoke(Command(resume="1"), THREAD)
    assert record(state)["route"] == "small"
    assert fake.calls == {"small": 1}
