"""The node and the wired router where an app uses them: in functions, tasks, twice, sent to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from langchain_core.messages import AnyMessage, HumanMessage
from langchain_core.prompt_values import ChatPromptValue
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from tests.support.apps import app, ask, card, pool, record
from xrouter_lg import Budget, ModelPool, Router, XRouterNode, add_router, build_router_graph
from xrouter_lg.errors import RequestError, RequestOptionError
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, server_error

SMALL = "small says hello to you"


def texts(parts: Any) -> str:
    return "".join(message.text for message, _ in parts)


def test_tokens_stream_from_a_function_node_that_hands_no_config_on(
    fake: FakeOpenAIServer,
) -> None:
    node = XRouterNode(pool(fake), policy="cheapest")
    graph = app(lambda state: node.invoke({"messages": state["messages"]}))
    parts = list(graph.stream(ask(), stream_mode="messages"))
    assert [m.text for m, _ in parts if m.text] == ["small", " says", " hello", " to", " you"]  # type: ignore[union-attr]


async def test_tokens_stream_from_a_task(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake), policy="cheapest")

    @task
    async def answered(question: str) -> str:
        state = await node.ainvoke({"messages": [HumanMessage(question)]})
        return str(state["messages"][-1].content)

    @entrypoint()
    async def flow(question: str) -> str:
        return await answered(question)

    parts = [part async for part in flow.astream("Hi", stream_mode="messages")]
    assert texts(parts) == SMALL


@pytest.mark.parametrize("limit", [2, 3])
async def test_nothing_of_the_apps_recursion_limit_is_spent_inside(
    limit: int, fake: FakeOpenAIServer
) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    graph = app(XRouterNode(pool(fake), policy="cheapest"))
    state = await graph.ainvoke(ask(), {"recursion_limit": limit})
    assert record(state)["route"] == "large"


@dataclass
class Tenant:
    tenant: str
    deny: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "context", [{"tenant": "a", "deny": ["small"]}, Tenant("a", ("small",))], ids=["dict", "object"]
)
async def test_options_come_by_the_apps_context(context: Any, fake: FakeOpenAIServer) -> None:
    builder = StateGraph(MessagesState, context_schema=type(context))
    builder.add_node("model", XRouterNode(pool(fake), policy="cheapest"))
    builder.add_edge(START, "model")
    told = record(await builder.compile().ainvoke(ask(), context=context))
    assert (told["route"], told["tenant"]) == ("large", "a")


async def test_configurable_wins_over_the_context(fake: FakeOpenAIServer) -> None:
    builder = StateGraph(MessagesState, context_schema=dict)
    builder.add_node("model", XRouterNode(pool(fake), policy="cheapest"))
    builder.add_edge(START, "model")
    config: Any = {"configurable": {"deny": ["large"]}}
    state = await builder.compile().ainvoke(ask(), config, context={"deny": ["small"]})
    assert record(state)["route"] == "small"


def test_the_options_are_advertised(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake))
    assert {spec.id for spec in node.config_specs} >= {"cost_weight", "deny", "max_cost_usd"}
    fields = node.get_config_jsonschema()["$defs"]["Configurable"]["properties"]
    assert "cost_weight" in fields


@pytest.mark.parametrize("bound", [False, True])
def test_the_node_is_drawn_to_its_cards(bound: bool, fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake), policy="cheapest")
    graph = app(node.bind_tools([{"name": "look"}]) if bound else node)
    assert set(graph.get_graph().nodes) == {"__start__", "model", "__end__"}
    drawn = graph.get_graph(xray=True)
    assert {"model:route", "model:call_small", "model:call_large"} <= set(drawn.nodes)
    assert ("model:call_small", "model:collect") in {(e.source, e.target) for e in drawn.edges}


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_one_looks_into_a_node_that_waits_for_a_human(
    way: str, fake: FakeOpenAIServer
) -> None:
    budget = Budget(per_request_usd="0.000001", on_exceeded="interrupt")
    graph = app(XRouterNode(pool(fake), budget=budget), InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    await graph.ainvoke(ask(), config)
    if way == "sync":
        (waiting,) = graph.get_state(config, subgraphs=True).tasks
    else:
        (waiting,) = (await graph.aget_state(config, subgraphs=True)).tasks
    assert waiting.interrupts
    assert waiting.state.next == ("route",)  # type: ignore[union-attr]
    state = await graph.ainvoke(Command(resume="1"), config)
    assert record(state)["route"] == "small"


async def test_the_node_is_a_runnable_like_any_other(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake), policy="cheapest")
    for other in (node.with_config(tags=["a"]), node.with_retry(), node.bind(stop=["."])):
        assert record(await other.ainvoke(ask()))["route"] == "small"
        assert record(await app(other).ainvoke(ask()))["route"] == "small"
    (whole,) = node.stream(ask())
    (later,) = [part async for part in node.astream(ask())]
    assert [record(state)["route"] for state in (whole, later)] == ["small", "small"]


def test_the_router_graph_has_a_json_schema(fake: FakeOpenAIServer) -> None:
    schema = build_router_graph(pool(fake)).compile().get_input_jsonschema()
    assert "messages" in schema["properties"]


@pytest.mark.parametrize(
    "given",
    [
        "Hi",
        [HumanMessage("Hi")],
        HumanMessage("Hi"),
        ChatPromptValue(messages=[HumanMessage("Hi")]),
    ],
    ids=["text", "list", "message", "prompt"],
)
def test_what_a_chat_model_takes_is_pointed_to_one(given: Any, fake: FakeOpenAIServer) -> None:
    with pytest.raises(RequestError, match="use ChatXRouter"):
        XRouterNode(pool(fake)).invoke(given)


# --- add_router ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["sync", "async"])
async def test_each_send_to_the_wired_router_has_its_answer(
    way: str, fake: FakeOpenAIServer
) -> None:
    builder = StateGraph(MessagesState)
    name = add_router(builder, Router(pool(fake), "cheapest"))

    def fan_out(state: Any) -> list[Send]:
        return [Send(name, {"messages": [HumanMessage(f"part {n}")]}) for n in range(4)]

    builder.add_conditional_edges(START, fan_out, [name])
    graph = builder.compile()
    state = graph.invoke(ask()) if way == "sync" else await graph.ainvoke(ask())
    answers = [m for m in state["messages"] if m.type == "ai"]
    assert len(answers) == 4
    assert fake.calls == {"small": 4}
    assert {m.response_metadata["xrouter"]["route"] for m in answers} == {"small"}


async def test_two_routers_in_parallel_answer_once_each(fake: FakeOpenAIServer) -> None:
    builder = StateGraph(MessagesState)
    for name in ("small", "large"):
        cards = ModelPool([card(fake, name)])
        builder.add_edge(START, add_router(builder, cards, name=f"ask_{name}"))
    state = await builder.compile().ainvoke(ask())
    assert fake.calls == {"small": 1, "large": 1}
    assert len([m for m in state["messages"] if m.type == "ai"]) == 2


async def test_two_routers_with_cards_in_common_stand_behind_each_other(
    fake: FakeOpenAIServer,
) -> None:
    builder = StateGraph(MessagesState)
    second = add_router(builder, Router(pool(fake), "fixed:large"), name="second")
    first = add_router(builder, Router(pool(fake), "cheapest"), name="first", then=second)
    builder.add_edge(START, first)
    graph = builder.compile()
    assert {"call_small", "first_call_small"} <= set(graph.get_graph().nodes)
    state = await graph.ainvoke(ask())
    routes = [m.response_metadata["xrouter"]["route"] for m in state["messages"][1:]]
    assert routes == ["small", "large"]


async def test_a_prefix_names_the_cards_nodes(fake: FakeOpenAIServer) -> None:
    builder = StateGraph(MessagesState)
    builder.add_edge(START, add_router(builder, pool(fake), prefix="eu_"))
    graph = builder.compile()
    assert {"eu_call_small", "eu_call_large"} <= set(graph.get_graph().nodes)
    assert record(await graph.ainvoke(ask()))["route"] == "small"


async def test_the_answer_may_go_to_a_key_of_its_own(fake: FakeOpenAIServer) -> None:
    class State(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages]
        drafts: Annotated[list[AnyMessage], add_messages]

    builder = StateGraph(State)
    builder.add_edge(START, add_router(builder, pool(fake), output_key="drafts", then=END))
    state = await builder.compile().ainvoke(ask())
    assert [m.content for m in state["drafts"]] == [SMALL]
    assert len(state["messages"]) == 1


async def test_a_bad_option_in_the_context_is_an_error(fake: FakeOpenAIServer) -> None:
    builder = StateGraph(MessagesState, context_schema=dict)
    builder.add_node("model", XRouterNode(pool(fake)))
    builder.add_edge(START, "model")
    with pytest.raises(RequestOptionError, match="cost_weight"):
        await builder.compile().ainvoke(ask(), context={"cost_weight": "much"})
