"""The agents of LangChain's ecosystem take the routed chat model as they take any other."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    SummarizationMiddleware,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.callbacks import get_usage_metadata_callback
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent
from pydantic import BaseModel

from tests.support.apps import app, ask, card
from tests.support.obliging import obliging
from xrouter_lg import ChatXRouter, ModelPool
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall


class Weather(BaseModel):
    """The weather."""

    city: str
    degrees: int


@tool
def weather(city: str) -> str:
    """Weather of a city."""
    return f"sunny in {city}"


def agent_model(name: str) -> Any:
    """Calls the tool it was asked for by name once, then answers with what the tool said."""

    def reply(body: dict[str, Any]) -> Reply | str:
        last = body["messages"][-1]
        if "transferred back" in str(last["content"]).lower():
            return f"{name} is content"
        if last["role"] == "tool" and "transferred" not in last["content"].lower():
            return f"{name} says: {last['content']}"
        for offered in body.get("tools") or []:
            wanted = offered["function"]["name"]
            if wanted.partition("_to_")[2] == "bob" or wanted in ("weather", "transfer_to_bob"):
                args = {"city": "Rome"} if wanted == "weather" else {}
                return Reply(tool_calls=[ToolCall(wanted, args)])
        return f"{name} answers"

    return reply


@pytest.fixture
def cards(fake: FakeOpenAIServer) -> ModelPool:
    for name in ("quick", "thorough"):
        fake.add_model(FakeModel(name=name, reply=agent_model(name)))
    return ModelPool([card(fake, "quick"), card(fake, "thorough")])


def routes(messages: list[Any]) -> list[str]:
    return [m.response_metadata["xrouter"]["route"] for m in messages if isinstance(m, AIMessage)]


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_create_agent_runs_its_tool_loop(way: str, cards: ModelPool) -> None:
    agent = create_agent(ChatXRouter(cards, policy="cheapest"), tools=[weather])
    with get_usage_metadata_callback() as counted:
        state = agent.invoke(ask()) if way == "sync" else await agent.ainvoke(ask())
    messages = state["messages"]
    assert [m.type for m in messages] == ["human", "ai", "tool", "ai"]
    assert messages[-1].text == "quick says: sunny in Rome"
    assert routes(messages) == ["quick", "quick"]
    billed = sum(m.usage_metadata["total_tokens"] for m in messages if isinstance(m, AIMessage))
    assert counted.usage_metadata["quick"]["total_tokens"] == billed


async def test_an_agents_tokens_stream(cards: ModelPool) -> None:
    agent = create_agent(ChatXRouter(cards, policy="fixed:thorough"))
    parts = [part async for part in agent.astream(ask(), stream_mode="messages")]
    assert [m.text for m, _ in parts if m.text] == ["thorough", " answers"]
    assert {metadata["langgraph_node"] for _, metadata in parts} == {"model"}
    assert all(isinstance(message, AIMessageChunk) for message, _ in parts)


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
async def test_an_agent_gives_a_structured_response(strategy: Any, fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="obliging", reply=obliging))
    model = ChatXRouter(ModelPool([card(fake, "obliging")]))
    state = await create_agent(model, response_format=strategy(Weather)).ainvoke(
        ask("21 in 'Rome'")
    )
    assert state["structured_response"] == Weather(city="Rome", degrees=21)


async def test_options_of_the_request_come_by_the_agents_config(cards: ModelPool) -> None:
    agent = create_agent(ChatXRouter(cards, policy="cheapest"), tools=[weather])
    config: Any = {"configurable": {"deny": ["quick"]}}
    assert routes((await agent.ainvoke(ask(), config))["messages"]) == ["thorough"] * 2


async def test_a_long_thread_is_summarised_by_the_routed_model(cards: ModelPool) -> None:
    model = ChatXRouter(cards, policy="cheapest")
    summary = SummarizationMiddleware(model, trigger=("messages", 4), keep=("messages", 1))
    agent = create_agent(model, middleware=[summary], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    for _ in range(4):
        state = await agent.ainvoke(ask(), config)
    assert any("summary" in str(m.content).lower() for m in state["messages"])


def test_middleware_that_needs_a_window_reads_it_from_the_profile(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(ModelPool([card(fake, "small", context_window=4096)]))
    SummarizationMiddleware(model, trigger=("fraction", 0.8))


async def test_other_middleware_sees_an_ordinary_model(cards: ModelPool) -> None:
    model = ChatXRouter(cards, policy="cheapest")
    layers: list[Any] = [ModelFallbackMiddleware(model), ModelCallLimitMiddleware(run_limit=5)]
    state = await create_agent(model, tools=[weather], middleware=layers).ainvoke(ask())
    assert state["messages"][-1].text == "quick says: sunny in Rome"


async def test_a_supervisor_and_its_agent_each_ask_their_own_policy(cards: ModelPool) -> None:
    supervisor = pytest.importorskip("langgraph_supervisor")
    bob = create_agent(ChatXRouter(cards, policy="fixed:thorough"), tools=[weather], name="bob")
    boss = supervisor.create_supervisor([bob], model=ChatXRouter(cards, policy="fixed:quick"))
    messages = (await boss.compile().ainvoke(ask()))["messages"]
    by_name = {
        m.name: routes([m])
        for m in messages
        if isinstance(m, AIMessage) and m.response_metadata.get("xrouter")
    }
    assert by_name["bob"] == ["thorough"]
    assert by_name["supervisor"] == ["quick"]


async def test_in_a_swarm_the_second_agents_policy_is_asked(cards: ModelPool) -> None:
    swarm = pytest.importorskip("langgraph_swarm")
    hand_over = swarm.create_handoff_tool(agent_name="bob")
    alice = create_agent(ChatXRouter(cards, policy="fixed:quick"), tools=[hand_over], name="alice")
    bob = create_agent(ChatXRouter(cards, policy="fixed:thorough"), tools=[weather], name="bob")
    graph = swarm.create_swarm([alice, bob], default_active_agent="alice").compile()
    messages = (await graph.ainvoke(ask()))["messages"]
    assert routes(messages) == ["quick", "thorough", "thorough"]
    assert messages[-1].text == "thorough says: sunny in Rome"


async def test_a_deep_agent_works_with_it(cards: ModelPool) -> None:
    deepagents = pytest.importorskip("deepagents")
    agent = deepagents.create_deep_agent(
        model=ChatXRouter(cards, policy="cheapest"), tools=[weather]
    )
    state = await agent.ainvoke(ask())
    assert state["messages"][-1].text == "quick says: sunny in Rome"
    assert set(routes(state["messages"])) == {"quick"}


async def test_the_prebuilt_agent_takes_it_with_and_without_tools_bound(cards: ModelPool) -> None:
    model = ChatXRouter(cards, policy="cheapest")
    for given in (model, model.bind_tools([weather])):
        state = await create_react_agent(given, [weather]).ainvoke(ask())  # type: ignore[arg-type]
        assert state["messages"][-1].text == "quick says: sunny in Rome"


async def test_tokens_stream_from_a_function_node_that_hands_no_config_on(cards: ModelPool) -> None:
    model = ChatXRouter(cards, policy="fixed:thorough")
    graph = app(lambda state: {"messages": [model.invoke(state["messages"])]})
    parts = list(graph.stream(ask(), stream_mode="messages"))
    assert [m.text for m, _ in parts if m.text] == ["thorough", " answers"]  # type: ignore[union-attr]


async def test_nothing_of_the_recursion_limit_and_no_checkpoint_is_its_own(
    cards: ModelPool, fake: FakeOpenAIServer
) -> None:
    saver = InMemorySaver()
    model = ChatXRouter(cards, policy="cheapest")

    async def node(state: Any) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    config: Any = {"recursion_limit": 2, "configurable": {"thread_id": "1"}}
    await app(node, saver).ainvoke(ask(), config)
    assert {c.config["configurable"]["checkpoint_ns"] for c in saver.list(config)} == {""}


def test_a_history_with_a_hand_off_asks_the_policy(cards: ModelPool) -> None:
    first = ChatXRouter(cards, policy="fixed:quick").bind_tools([weather]).invoke("Rome?")
    said = ToolMessage("Successfully transferred to bob", tool_call_id=first.tool_calls[0]["id"])
    answer = ChatXRouter(cards, policy="fixed:thorough").invoke(
        [HumanMessage("Rome?"), first, said]
    )
    assert routes([answer]) == ["thorough"]
