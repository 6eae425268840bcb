"""The chosen worker's tokens stream as the node's own, once, and nobody else's do."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.support.apps import answer, app, ask, calls, card, pool, prefers, record
from xrouter_lg import Action, ModelPool, Proposal, XRouterNode, add_router
from xrouter_lg.errors import StreamInterruptedError
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    Reply,
    ToolCall,
    cut_stream,
    malformed_json,
    server_error,
    stream_error,
    truncated,
)

LARGE = "large says many more words than the others do"
Part = tuple[BaseMessage, dict[str, Any]]


async def stream(graph: Any, **options: Any) -> list[Part]:
    return [part async for part in graph.astream(ask(), stream_mode="messages", **options)]


def text(parts: list[Part]) -> str:
    return "".join(str(message.text) for message, _ in parts)


def tokens(parts: list[Part]) -> list[str]:
    return [str(message.text) for message, _ in parts if message.text]


async def test_tokens_arrive_one_by_one(fake: FakeOpenAIServer) -> None:
    parts = await stream(app(XRouterNode(pool(fake), policy="fixed:large")))
    assert tokens(parts) == [f" {w}" if i else w for i, w in enumerate(LARGE.split())]


def test_tokens_arrive_one_by_one_in_a_sync_app(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake), policy="fixed:large"))
    parts = list(graph.stream(ask(), stream_mode="messages"))
    assert [str(message.text) for message, _ in parts if message.text] == [  # type: ignore[union-attr]
        f" {w}" if i else w for i, w in enumerate(LARGE.split())
    ]


async def test_tokens_carry_the_name_of_the_users_node(fake: FakeOpenAIServer) -> None:
    parts = await stream(app(XRouterNode(pool(fake))))
    assert {metadata["langgraph_node"] for _, metadata in parts} == {"model"}


async def test_tokens_say_which_card_they_come_from(fake: FakeOpenAIServer) -> None:
    parts = await stream(app(XRouterNode(pool(fake), policy="fixed:large")))
    assert {metadata["xrouter_card"] for _, metadata in parts} == {"large"}


async def test_all_chunks_belong_to_the_message_that_ends_up_in_the_state(
    fake: FakeOpenAIServer,
) -> None:
    graph = app(XRouterNode(pool(fake)))
    ids, final = set(), None
    async for mode, part in graph.astream(ask(), stream_mode=["messages", "values"]):
        if mode == "messages":
            ids.add(part[0].id)
        else:
            final = part
    assert ids == {answer(final).id}  # type: ignore[arg-type]


async def test_the_router_models_tokens_stay_out_of_the_stream(fake: FakeOpenAIServer) -> None:
    fake.add_model(
        FakeModel(
            name="guide", reply=Reply("I muse.", tool_calls=[ToolCall("call_large", {"hint": "x"})])
        )
    )
    parts = await stream(app(XRouterNode(pool(fake), policy=card(fake, "guide"))))
    assert text(parts) == LARGE
    assert not any(getattr(message, "tool_call_chunks", None) for message, _ in parts)


async def test_a_direct_answer_of_the_router_comes_as_one_message(fake: FakeOpenAIServer) -> None:
    parts = await stream(app(XRouterNode(pool(fake), policy=card(fake, "guide"))))
    assert tokens(parts) == ["I route"]


async def test_a_fan_out_streams_only_the_final_answer_once(fake: FakeOpenAIServer) -> None:
    parts = await stream(app(XRouterNode(pool(fake), policy=calls("large", "small"))))
    assert tokens(parts) == [LARGE]


async def test_several_turns_stream_only_the_selected_answer(fake: FakeOpenAIServer) -> None:
    def propose(request: Any, candidates: Any) -> Proposal:
        action = Action("select", call_id="c1") if request.answers else Action("call", card="large")
        return Proposal({c.name: 0.5 for c in candidates}, (action,))

    from tests.support.apps import Says

    node = XRouterNode(pool(fake), policy=Says(propose, orchestrates=True), max_turns=3)
    assert tokens(await stream(app(node))) == [LARGE]


async def test_failover_before_the_first_token_streams_the_second_card_only(
    fake: FakeOpenAIServer,
) -> None:
    fake.faults = FaultPlan({"small": server_error()})
    parts = await stream(app(XRouterNode(pool(fake))))
    assert text(parts) == LARGE


async def test_updates_show_one_update_by_the_users_node(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake)))
    parts = [part async for part in graph.astream(ask(), stream_mode="updates")]
    assert [(list(part), list(part["model"])) for part in parts] == [(["model"], ["messages"])]


async def test_values_show_the_state_before_and_after(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake)))
    parts = [part async for part in graph.astream(ask(), stream_mode="values")]
    assert [[m.type for m in part["messages"]] for part in parts] == [["human"], ["human", "ai"]]


async def test_subgraphs_show_the_routers_own_steps(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake)))
    steps = [
        name
        async for namespace, part in graph.astream(ask(), stream_mode="updates", subgraphs=True)
        if namespace
        for name in part
    ]
    assert steps == ["route", "call_small", "collect"]


async def test_with_subgraphs_each_token_still_comes_once(fake: FakeOpenAIServer) -> None:
    parts = [
        part
        async for _, part in app(XRouterNode(pool(fake), policy="fixed:large")).astream(
            ask(), stream_mode="messages", subgraphs=True
        )
    ]
    assert text(parts) == LARGE


async def test_astream_events_gives_the_workers_tokens(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake), policy="fixed:large"))
    said = [
        str(event["data"]["chunk"].text)
        async for event in graph.astream_events(ask(), version="v2")
        if event["event"] == "on_chat_model_stream"
    ]
    assert "".join(said) == LARGE


async def test_a_streamed_answer_is_charged_like_any_other(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake), policy="fixed:large"))
    final = None
    async for _, part in graph.astream(ask(), stream_mode=["messages", "values"]):
        final = part if isinstance(part, dict) else final
    usage = record(final)["charges"][0]["usage"]  # type: ignore[arg-type]
    line = fake.bill[0].usage
    assert (usage["input_tokens"], usage["output_tokens"]) == (
        line.prompt_tokens,
        line.completion_tokens,
    )


@pytest.mark.parametrize(
    "fault", [cut_stream(2), stream_error(2)], ids=["cut stream", "error event"]
)
async def test_a_failure_after_the_first_token_ends_the_stream_with_a_typed_error(
    fake: FakeOpenAIServer, fault: Any
) -> None:
    fake.faults = FaultPlan({"small": fault})
    seen: list[Part] = []

    async def read() -> None:
        async for part in app(XRouterNode(pool(fake))).astream(ask(), stream_mode="messages"):
            seen.append(part)  # type: ignore[arg-type]  # noqa: PERF401  (kept when it raises)

    with pytest.raises(StreamInterruptedError, match="small"):
        await read()
    assert text(seen) == "small says"
    assert fake.calls == {"small": 1}


async def test_a_failure_after_tool_call_chunks_is_a_failure_mid_stream_too(
    fake: FakeOpenAIServer,
) -> None:
    reply = Reply(tool_calls=[ToolCall("weather", {"city": "Rome, the eternal city"})])
    fake.add_model(FakeModel(name="small", reply=reply))
    fake.faults = FaultPlan({"small": cut_stream(3)})
    node = XRouterNode(pool(fake)).bind_tools([{"name": "weather", "parameters": {}}])
    with pytest.raises(StreamInterruptedError):
        await stream(app(node))
    assert fake.calls == {"small": 1}


@pytest.mark.parametrize(
    "fault", [cut_stream(2), stream_error(2), malformed_json()], ids=["cut", "error", "malformed"]
)
async def test_the_same_failure_costs_a_fallback_when_nobody_streams(
    fake: FakeOpenAIServer, fault: Any
) -> None:
    fake.faults = FaultPlan({"small": fault})
    state = await app(XRouterNode(pool(fake))).ainvoke(ask())
    assert answer(state).content == LARGE


async def test_watching_updates_is_not_streaming_tokens(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"small": cut_stream(2)})
    graph = app(XRouterNode(pool(fake)))
    parts = [part async for part in graph.astream(ask(), stream_mode="updates")]
    assert parts[-1]["model"]["messages"][0].content == LARGE


async def test_a_cut_answer_that_has_streamed_is_marked_not_replaced(
    fake: FakeOpenAIServer,
) -> None:
    """Escalating would glue the next card's text to it."""
    fake.faults = FaultPlan({"small": truncated(2)})
    graph = app(XRouterNode(pool(fake, on_truncated="escalate")))
    parts: list[Part] = []
    final: Any = None
    async for mode, part in graph.astream(ask(), stream_mode=["messages", "values"]):
        if mode == "messages":
            parts.append(part)
        else:
            final = part
    assert text(parts) == "small says"
    assert record(final)["truncated"] is True


async def test_add_router_streams_under_the_cards_node(fake: FakeOpenAIServer) -> None:
    builder = StateGraph(MessagesState)
    builder.add_edge(START, add_router(builder, pool(fake), then=END))
    parts = await stream(builder.compile())
    assert text(parts) == "small says hello to you"
    assert {metadata["langgraph_node"] for _, metadata in parts} == {"call_small"}


async def test_two_requests_of_one_thread_stream_their_own_tokens(fake: FakeOpenAIServer) -> None:
    from langgraph.checkpoint.memory import InMemorySaver

    graph = app(XRouterNode(pool(fake), policy=prefers("small")), InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    for _ in range(2):
        parts = [p async for p in graph.astream(ask(), config, stream_mode="messages")]
        assert text(parts) == "small says hello to you"  # type: ignore[arg-type]


async def test_a_node_in_a_users_subgraph_streams_under_its_own_name(
    fake: FakeOpenAIServer,
) -> None:
    inner = app(XRouterNode(pool(fake)))
    outer = StateGraph(MessagesState)
    outer.add_node("team", inner)
    outer.add_edge(START, "team")
    outer.add_edge("team", END)
    parts = [
        part
        async for _, part in outer.compile().astream(ask(), stream_mode="messages", subgraphs=True)
    ]
    assert text(parts) == "small says hello to you"
    assert {metadata["langgraph_node"] for _, metadata in parts} == {"model"}


async def test_chunks_add_up_to_the_final_message(fake: FakeOpenAIServer) -> None:
    parts = await stream(app(XRouterNode(ModelPool([card(fake, "large")]))))
    chunks = [m for m, _ in parts if isinstance(m, AIMessageChunk)]
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert isinstance(whole, AIMessage)
    assert whole.content == LARGE
