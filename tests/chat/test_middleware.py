"""``XRouterMiddleware`` in ``create_agent``, beside the middleware that agents have anyway."""

from __future__ import annotations

from typing import Any, cast

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ModelCallLimitMiddleware,
    ModelFallbackMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
)
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import ToolException, tool
from langgraph.graph import START, StateGraph

from tests.support.apps import ask, card, scripted
from xrouter_lg import ChatXRouter, ModelPool, Recorder, XRouterMiddleware
from xrouter_lg.chat.middleware import RoutedAgentState
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.routing.trajectory import steps_of
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    Reply,
    ScriptedChatModel,
    ToolCall,
    first,
    server_error,
)

LOOKUP = AIMessage("", tool_calls=[{"name": "lookup", "args": {}, "id": "1", "type": "tool_call"}])


@tool
def lookup() -> str:
    """Looks something up."""
    return "42"


def answers(name: str) -> Any:
    def script(messages: Any) -> Any:
        return f"{name} is done" if isinstance(messages[-1], ToolMessage) else LOOKUP

    return script


def small_then_large(request: Any, candidates: Any) -> str:
    return "large" if isinstance(request.messages[-1], ToolMessage) else "small"


@pytest.fixture
def cards() -> ModelPool:
    return ModelPool([scripted("small", answers("small")), scripted("large", answers("large"))])


def own_model() -> ScriptedChatModel:
    return ScriptedChatModel(lambda messages: "the agent's own", model_name="own")


def routes(state: Any) -> list[Any]:
    return [
        (m.response_metadata.get("xrouter") or {}).get("route")
        for m in state["messages"]
        if isinstance(m, AIMessage)
    ]


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_one_model_goes_through_a_run_by_default(way: str, cards: ModelPool) -> None:
    layer = XRouterMiddleware(cards, policy=small_then_large)
    agent = create_agent(own_model(), tools=[lookup], middleware=[layer])
    state = agent.invoke(ask()) if way == "sync" else await agent.ainvoke(ask())
    assert routes(state) == ["small", "small"]
    assert state["messages"][-1].text == "small is done"


async def test_per_step_asks_the_policy_at_every_call(cards: ModelPool) -> None:
    layer = XRouterMiddleware(cards, per="step", policy=small_then_large)
    state = await create_agent(own_model(), tools=[lookup], middleware=[layer]).ainvoke(ask())
    assert routes(state) == ["small", "large"]


@tool
def fragile(name: str) -> str:
    """Knows one name."""
    if name != "Ada":
        raise ToolException(f"no {name!r}")
    return "42"


fragile.handle_tool_error = True


def misspelling(messages: Any) -> Any:
    """Calls the tool with what it does not know, again and again."""
    call = {"name": "fragile", "args": {"name": "Bob"}, "id": str(len(messages))}
    return AIMessage("", tool_calls=[{**call, "type": "tool_call"}])


def right(messages: Any) -> Any:
    if messages[-1].text == "42":
        return "It is 42"
    call = {"name": "fragile", "args": {"name": "Ada"}, "id": str(len(messages))}
    return AIMessage("", tool_calls=[{**call, "type": "tool_call"}])


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_a_run_that_stalls_goes_on_with_the_next_card_up(way: str) -> None:
    cards = ModelPool([scripted("small", misspelling), scripted("large", right)])
    layer = XRouterMiddleware(cards, per="step", policy="cheapest")
    agent = create_agent(own_model(), tools=[fragile], middleware=[layer])
    state = agent.invoke(ask()) if way == "sync" else await agent.ainvoke(ask())
    assert routes(state) == ["small", "large", "large"]
    assert state["messages"][-1].text == "It is 42"
    assert state["xrouter"]["reason"].startswith("small stalled (its tool calls failed); ")


async def test_every_step_of_a_policy_sees_the_run_so_far(fake: FakeOpenAIServer) -> None:
    seen = []

    def watching(request: Any, candidates: Any) -> str:
        seen.append((len(steps_of(request.messages)), dict(request.warm_tokens)))
        return "small"

    def reply(body: Any) -> Any:
        done = body["messages"][-1]["role"] == "tool"
        return "done" if done else Reply(tool_calls=[ToolCall("lookup", {})])

    fake.add_model(FakeModel(name="small", reply=reply))
    cards = ModelPool([card(fake, "small"), card(fake, "large")])
    layer = XRouterMiddleware(cards, per="step", policy=watching)
    state = await create_agent(own_model(), tools=[lookup], middleware=[layer]).ainvoke(ask())
    first = state["messages"][1].usage_metadata
    assert [steps for steps, _ in seen] == [0, 1]
    assert seen[0][1] == {}
    assert 0 < seen[1][1]["small"] <= first["input_tokens"] + first["output_tokens"]


async def test_the_state_and_the_trace_tell_the_route(cards: ModelPool, tmp_path: Any) -> None:
    agent = create_agent(own_model(), middleware=[XRouterMiddleware(cards, policy="fixed:large")])
    with Recorder(tmp_path / "traces.db") as recorder:
        state = await agent.ainvoke(ask(), {"callbacks": [recorder]})
        assert recorder.flush(10)
        (trace,) = recorder.store.find("", limit=10)
        root = recorder.store.runs(trace)[0]
    told = state["xrouter"]
    assert (told["route"], told["policy"], told["propensity"]) == ("large", "fixed", 1.0)
    assert root["extra"]["metadata"]["xrouter_route"] == "large"


@pytest.fixture
def failing(fake: FakeOpenAIServer) -> ModelPool:
    fake.faults = FaultPlan({"small": server_error()})
    return ModelPool([card(fake, "small")])


@pytest.mark.parametrize("router_first", [True, False])
async def test_a_fallback_on_either_side_answers_when_every_card_failed(
    router_first: bool, failing: ModelPool
) -> None:
    spare = ScriptedChatModel(lambda messages: "the spare", model_name="spare")
    layers: list[Any] = [ModelFallbackMiddleware(spare), XRouterMiddleware(failing)]
    agent = create_agent(own_model(), middleware=layers[::-1] if router_first else layers)
    state = await agent.ainvoke(ask())
    assert state["messages"][-1].text == "the spare"
    assert "xrouter" not in state


@pytest.mark.parametrize("router_first", [True, False])
def test_a_retry_on_either_side_asks_the_router_again(
    router_first: bool, fake: FakeOpenAIServer
) -> None:
    fake.faults = FaultPlan({"small": first(1, server_error())})
    retry = ModelRetryMiddleware(max_retries=1, initial_delay=0.0, jitter=False)
    layers: list[Any] = [retry, XRouterMiddleware(ModelPool([card(fake, "small")]))]
    agent = create_agent(own_model(), middleware=layers[::-1] if router_first else layers)
    assert routes(agent.invoke(ask())) == ["small"]
    assert fake.calls == {"small": 2}


@pytest.mark.parametrize("router_first", [True, False])
async def test_limits_and_summaries_on_either_side_do_their_work(
    router_first: bool, cards: ModelPool
) -> None:
    router = XRouterMiddleware(cards, policy="cheapest")
    summary = SummarizationMiddleware(own_model(), trigger=("messages", 2), keep=("messages", 1))
    layers: list[Any] = [ModelCallLimitMiddleware(run_limit=1), summary, router]
    agent = create_agent(
        own_model(), tools=[lookup], middleware=layers[::-1] if router_first else layers
    )
    question = {"messages": [("user", "a"), ("assistant", "b"), ("user", "c")]}
    state = await agent.ainvoke(question)
    assert [route for route in routes(state) if route] == ["small"]
    assert "limit" in state["messages"][-1].text


class Settings(AgentMiddleware[Any, Any, Any]):
    """Adds what only the agent's own kind of model takes, as caching middleware does."""

    async def awrap_model_call(self, request: Any, handler: Any) -> Any:
        return await handler(request.override(model_settings={"prompt_cache_key": "k"}))


async def test_settings_meant_for_the_agents_model_reach_only_cards_of_its_class(
    fake: FakeOpenAIServer,
) -> None:
    other = scripted("other")
    layer = XRouterMiddleware(ModelPool([other, card(fake, "small")]), policy="fixed:other")
    agent = create_agent(ScriptedChatModel(["x"]), middleware=[Settings(), layer])
    await agent.ainvoke(ask())
    assert other.model.calls[0].kwargs["prompt_cache_key"] == "k"  # type: ignore[union-attr]
    config: Any = {"configurable": {"allow": ["small"]}}
    state = await agent.ainvoke(ask(), config)
    assert routes(state) == ["small"]
    assert "prompt_cache_key" not in fake.requests[-1].body


async def test_at_a_hand_off_the_next_agents_policy_is_asked(cards: ModelPool) -> None:
    moved = AIMessage(
        "",
        tool_calls=[{"name": "to_bob", "args": {}, "id": "1", "type": "tool_call"}],
        response_metadata={"xrouter": {"route": "small"}},
    )
    layer = XRouterMiddleware(cards, policy="fixed:large")
    bob = create_agent(own_model(), tools=[lookup], middleware=[layer])
    history = [*ask()["messages"], moved, ToolMessage("transferred", tool_call_id="1")]
    assert routes(await bob.ainvoke({"messages": history})) == ["small", "large"]


async def test_one_layer_serves_two_agents_each_with_its_own_run(cards: ModelPool) -> None:
    layer = XRouterMiddleware(cards, policy="cheapest")
    for model in (own_model(), own_model()):
        state = await create_agent(model, tools=[lookup], middleware=[layer]).ainvoke(ask())
        assert routes(state) == ["small", "small"]


async def test_tokens_of_the_routed_model_stream_as_the_agents(fake: FakeOpenAIServer) -> None:
    layer = XRouterMiddleware(ModelPool([card(fake, "small")]))
    agent = create_agent(own_model(), middleware=[layer])
    parts = [part async for part in agent.astream(ask(), stream_mode="messages")]
    assert [m.text for m, _ in parts if m.text] == ["small", " says", " hello", " to", " you"]


def test_it_takes_a_routed_model_or_that_models_options(cards: ModelPool) -> None:
    model = ChatXRouter(cards)
    assert XRouterMiddleware(model).model is model
    with pytest.raises(ConfigurationError, match="policy beside a ChatXRouter"):
        XRouterMiddleware(model, policy="cheapest")
    with pytest.raises(ConfigurationError, match="per is 'message'; it must be 'run' or 'step'"):
        XRouterMiddleware(cards, per="message")  # type: ignore[arg-type]


class SecondLayer(XRouterMiddleware):
    """Another layer: an agent takes one of a class."""


async def test_of_two_layers_the_inner_one_answers(cards: ModelPool) -> None:
    layers = [
        XRouterMiddleware(cards, policy="fixed:small"),
        SecondLayer(cards, policy="fixed:large"),
    ]
    state = await create_agent(own_model(), middleware=layers).ainvoke(ask())
    assert routes(state) == ["large"]
    assert state["xrouter"]["route"] == "large"


async def test_two_agents_side_by_side_tell_their_routes_in_one_state(cards: ModelPool) -> None:
    builder = StateGraph(RoutedAgentState)
    for card_name in ("small", "large"):
        layer = XRouterMiddleware(cards, policy=f"fixed:{card_name}")
        builder.add_node(card_name, create_agent(own_model(), middleware=[layer]))
        builder.add_edge(START, card_name)
    state: Any = await builder.compile().ainvoke(cast("Any", ask()))
    assert sorted(route for route in routes(state) if route) == ["large", "small"]
    assert state["xrouter"]["route"] in ("small", "large")
