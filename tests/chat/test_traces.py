"""What a routed chat model leaves in a trace is what the node leaves: training reads both alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send

from tests.support.apps import app, ask, calls, pool
from xrouter_lg import (
    Action,
    ChatXRouter,
    ModelPool,
    Proposal,
    Recorder,
    Router,
    XRouterNode,
    add_router,
)
from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.extract import NO_RECORD, ExtractReport, episodes
from xrouter_lg.errors import AllCandidatesFailedError
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, server_error

QUESTION = "What is the capital of France?"


def read(
    recorder: Recorder, cards: ModelPool, report: ExtractReport | None = None
) -> list[Episode]:
    assert recorder.flush(10)
    runs = [
        run for trace in recorder.store.find("", limit=100) for run in recorder.store.runs(trace)
    ]
    return list(episodes(runs, pool=cards, report=report))


@pytest.fixture
def recorder(tmp_path: Path) -> Any:
    with Recorder(tmp_path / "traces.db") as open_recorder:
        yield open_recorder


def two_turns(request: Any, candidates: Any) -> Proposal:
    if request.answers:
        return Proposal({}, (Action("select", call_id="c2"),))
    return Proposal({}, (Action("call", card="small"), Action("call", card="large")))


@pytest.mark.parametrize(
    "policy",
    [lambda: "cheapest", lambda: calls().__class__(two_turns, orchestrates=True)],
    ids=["one call", "two turns"],
)
def test_an_episode_of_the_chat_model_is_one_of_the_node(
    policy: Callable[[], Any], fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    cards = pool(fake)
    app(XRouterNode(cards, policy=policy(), max_turns=2, traces=recorder)).invoke(ask(QUESTION))
    (of_node,) = read(recorder, cards)
    ChatXRouter(cards, policy=policy(), max_turns=2, traces=recorder).invoke(QUESTION)
    of_chat = read(recorder, cards)[-1]
    assert of_chat.run_id != of_node.run_id
    for name in [
        "answer",
        "route",
        "routed",
        "candidates",
        "scores",
        "propensity",
        "reason",
        "policy",
        "pool_fingerprint",
        "cost_usd",
        "router_cost_usd",
        "cost_weight",
    ]:
        assert getattr(of_chat, name) == getattr(of_node, name), name
    told = [
        [(call.call_id, call.card, call.answer, call.cost_usd, call.usage) for call in it.calls]
        for it in (of_chat, of_node)
    ]
    assert told[0] == told[1]
    assert [m["content"] for m in map(_data, of_chat.messages)] == [QUESTION]


def _data(message: dict[str, Any]) -> dict[str, Any]:
    data: dict[str, Any] = message.get("data") or message.get("kwargs") or message
    return data


def test_a_streamed_request_is_an_episode_too(fake: FakeOpenAIServer, recorder: Recorder) -> None:
    cards = pool(fake)
    for _ in ChatXRouter(cards, policy="cheapest", traces=recorder).stream(QUESTION):
        pass
    (episode,) = read(recorder, cards)
    assert (episode.routed, episode.route, episode.answer) == (
        True,
        "small",
        "small says hello to you",
    )


def test_a_failed_request_is_no_plain_models_call(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({"small": server_error(), "large": server_error()})
    cards, report = pool(fake), ExtractReport()
    with pytest.raises(AllCandidatesFailedError):
        ChatXRouter(cards, policy="cheapest", traces=recorder).invoke(QUESTION)
    assert read(recorder, cards, report) == []
    assert dict(report.skipped) == {NO_RECORD: 1}


def test_every_request_that_was_sent_to_a_wired_router_is_an_episode(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    cards, report = pool(fake), ExtractReport()
    builder = StateGraph(MessagesState)
    name = add_router(builder, Router(cards, "cheapest"))
    sends = [Send(name, {"messages": [HumanMessage(f"part {n}")]}) for n in range(3)]
    builder.add_conditional_edges(START, lambda state: sends, [name])
    builder.compile().invoke(ask(QUESTION), {"callbacks": [recorder]})
    found = read(recorder, cards, report)
    assert sorted(_data(e.messages[0])["content"] for e in found) == ["part 0", "part 1", "part 2"]
    assert dict(report.skipped) == {}


def test_the_store_finds_the_route_of_a_request_inside_an_app(
    fake: FakeOpenAIServer, recorder: Recorder
) -> None:
    model = ChatXRouter(pool(fake), policy="cheapest")
    graph = app(lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.invoke({"messages": [HumanMessage(QUESTION)]}, {"callbacks": [recorder]})
    assert recorder.flush(10)
    (row,) = recorder.store.routes()
    assert (row.record.route, row.record.policy) == ("small", "cheapest")
