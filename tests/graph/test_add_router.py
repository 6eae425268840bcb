"""The router's steps as visible nodes of a graph that the user wires."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages

from tests.support.apps import Says, answer, ask, calls, card, pool, record
from xrouter_lg import Action, Budget, ModelPool, Proposal, Router, add_router
from xrouter_lg.errors import ConfigurationError, NoCandidateError
from xrouter_lg.graph.bound import ToolBinding
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan, Reply, ToolCall, server_error

THREAD: Any = {"configurable": {"thread_id": "t"}}


def _newest_two(old: list[Any], new: list[Any]) -> list[Any]:
    return [*old, *new][-2:]


def wired(router: Any, checkpointer: Any = None, **options: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_edge(START, add_router(builder, router, **options))
    return builder.compile(checkpointer=checkpointer)


def test_each_card_is_a_node_of_the_users_graph(fake: FakeOpenAIServer) -> None:
    nodes = set(wired(pool(fake)).get_graph().nodes)
    assert {"route", "call_small", "call_large", "route_collect"} <= nodes


def test_the_picture_shows_the_tool_edges(fake: FakeOpenAIServer) -> None:
    edges = {(e.source, e.target) for e in wired(pool(fake)).get_graph().edges}
    assert {("route", "call_small"), ("call_small", "route_collect")} <= edges


async def test_the_answer_goes_on_to_the_named_node(fake: FakeOpenAIServer) -> None:
    seen = []

    def check(state: MessagesState) -> dict[str, Any]:
        seen.append(state["messages"][-1].content)
        return {}

    builder = StateGraph(MessagesState)
    builder.add_edge(START, add_router(builder, pool(fake), then="check"))
    builder.add_node("check", check)
    builder.add_edge("check", END)
    await builder.compile().ainvoke(ask())
    assert seen == ["small says hello to you"]


async def test_nodes_of_the_users_own_stand_before_and_behind(fake: FakeOpenAIServer) -> None:
    class State(MessagesState):
        topic: str

    def classify(state: State) -> dict[str, Any]:
        return {"topic": "geography"}

    def sign(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage("signed")]}

    builder = StateGraph(State)
    builder.add_node("classify", classify)
    builder.add_node("sign", sign)
    builder.add_edge(START, "classify")
    builder.add_edge("classify", add_router(builder, pool(fake), name="router", then="sign"))
    builder.add_edge("sign", END)
    state = await builder.compile().ainvoke(ask())
    assert [m.content for m in state["messages"]][1:] == ["small says hello to you", "signed"]
    assert state["topic"] == "geography"


async def test_the_result_has_only_the_users_own_keys(fake: FakeOpenAIServer) -> None:
    assert list(await wired(pool(fake)).ainvoke(ask())) == ["messages"]


async def test_messages_under_another_key(fake: FakeOpenAIServer) -> None:
    class State(TypedDict):
        chat: Annotated[list[AnyMessage], add_messages]

    builder = StateGraph(State)
    builder.add_edge(START, add_router(builder, pool(fake), messages_key="chat"))
    state = await builder.compile().ainvoke({"chat": [HumanMessage("Hi")]})
    assert [m.content for m in state["chat"]] == ["Hi", "small says hello to you"]


@pytest.mark.parametrize("option", ["messages_key", "output_key"])
def test_a_key_that_the_state_does_not_have_is_refused(option: str, fake: FakeOpenAIServer) -> None:
    """Its answers would be paid for and lost."""
    wanted = f"{option} is 'answers', and .* the graph's state has messages"
    with pytest.raises(ConfigurationError, match=wanted):
        add_router(StateGraph(MessagesState), pool(fake), **{option: "answers"})


async def test_the_users_reducer_stays_in_force(fake: FakeOpenAIServer) -> None:
    class State(TypedDict):
        messages: Annotated[list[Any], _newest_two]

    builder = StateGraph(State)
    builder.add_edge(START, add_router(builder, pool(fake)))
    state = await builder.compile().ainvoke(
        {"messages": [HumanMessage("a"), HumanMessage("b"), HumanMessage("c")]}
    )
    assert [m.content for m in state["messages"]] == ["c", "small says hello to you"]


async def test_several_requests_of_one_thread_keep_their_ledgers_apart(
    fake: FakeOpenAIServer,
) -> None:
    graph = wired(Router(pool(fake), calls("small", "large")), InMemorySaver())
    for _ in range(3):
        state = await graph.ainvoke(ask(), THREAD)
        assert len(record(state)["charges"]) == 2
    assert len(state["messages"]) == 6


async def test_failover_stays_inside_the_users_graph(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    steps = [
        name
        async for part in wired(pool(fake)).astream(ask(), stream_mode="updates")
        for name in part
    ]
    assert steps == ["route", "call_small", "route_collect", "call_large", "route_collect"]


async def test_further_turns_go_back_to_the_route_node(fake: FakeOpenAIServer) -> None:
    def propose(request: Any, candidates: Any) -> Proposal:
        action = Action("select", call_id="c1") if request.answers else Action("call", card="small")
        return Proposal({c.name: 0.5 for c in candidates}, (action,))

    graph = wired(Router(pool(fake), Says(propose, orchestrates=True), max_turns=2))
    steps = [name async for part in graph.astream(ask(), stream_mode="updates") for name in part]
    assert steps == ["route", "call_small", "route_collect", "route", "route_collect"]


def test_a_sync_graph_works_too(fake: FakeOpenAIServer) -> None:
    assert answer(wired(pool(fake)).invoke(ask())).content == "small says hello to you"


async def test_a_bare_pool_takes_policy_and_turns_here(fake: FakeOpenAIServer) -> None:
    assert record(await wired(pool(fake), policy="fixed:large").ainvoke(ask()))["route"] == "large"


def test_a_router_beside_a_policy_is_refused(fake: FakeOpenAIServer) -> None:
    with pytest.raises(ConfigurationError, match="policy beside a Router"):
        wired(Router(pool(fake)), policy="cheapest")


@pytest.mark.parametrize("bound", [lambda it: ToolBinding((it,)), lambda it: [it]])
async def test_tools_of_the_app_reach_the_worker(fake: FakeOpenAIServer, bound: Any) -> None:
    fake.add_model(FakeModel(name="small", reply=Reply(tool_calls=[ToolCall("look", {})])))
    spec = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
    state = await wired(pool(fake), tools=bound(spec)).ainvoke(ask())
    assert [c["name"] for c in answer(state).tool_calls] == ["look"]


async def test_options_per_request_count_here_too(fake: FakeOpenAIServer) -> None:
    state = await wired(pool(fake)).ainvoke(ask(), {"configurable": {"allow": ["large"]}})
    assert record(state)["route"] == "large"


async def test_a_budget_holds_here_too(fake: FakeOpenAIServer) -> None:
    router = Router(pool(fake), "fixed:large", budget=Budget("0.05"))
    assert record(await wired(router).ainvoke(ask()))["route"] == "small"


async def test_a_card_that_joins_a_reloaded_pool_is_unreachable_and_says_why(
    fake: FakeOpenAIServer, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xrouter_lg.pool.file.CHECK_EVERY_S", 0.0)
    path = tmp_path / "pool.yaml"
    entry = "  - {{name: {0}, model: {0}, base_url: '{1}', price: {{input: 1, output: 1}}}}\n"
    one = "models:\n" + entry.format("small", fake.base_url)
    path.write_text(one)
    graph = wired(ModelPool.from_yaml(path))
    assert record(await graph.ainvoke(ask()))["removed"] == {}
    path.write_text(one + entry.format("large", fake.base_url))
    assert record(await graph.ainvoke(ask()))["removed"] == {
        "large": "joined the pool after this graph was built; build the graph again"
    }
    with pytest.raises(NoCandidateError, match="build the graph again"):
        await graph.ainvoke(ask(), {"configurable": {"allow": ["large"]}})


async def test_two_routers_with_other_cards_fit_into_one_graph(fake: FakeOpenAIServer) -> None:
    builder = StateGraph(MessagesState)
    second = add_router(builder, ModelPool([card(fake, "large")]), name="second")
    first = add_router(builder, ModelPool([card(fake, "small")]), name="first", then=second)
    builder.add_edge(START, first)
    state = await builder.compile().ainvoke(ask())
    assert [m.response_metadata["xrouter"]["route"] for m in state["messages"][1:]] == [
        "small",
        "large",
    ]
