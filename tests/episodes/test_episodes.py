"""One extractor over both sources: the same requests, captured both ways at once."""

from __future__ import annotations

import json
from operator import add
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from tests.episodes.captured import Captured
from tests.support import apps
from xrouter_lg import Action, ModelPool, Proposal, Recorder, XRouterNode, add_router
from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.extract import (
    BESIDE,
    HASHED,
    HIDDEN,
    HIDDEN_ANSWER,
    NO_RECORD,
    REDACTED,
    episodes,
)
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall
from xrouter_lg.tracing.runs.redact import redact_patterns

IDS = {
    "prompt_token_ids": [5, 17, 902],
    "completion_token_ids": [33],
    "logprobs": [{"33": -0.125, "34": -2.5}],
}


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return "sunny"


@pytest.fixture
def pool(fake: FakeOpenAIServer) -> ModelPool:
    return apps.pool(fake, "small", "large", default="large")


def language_model() -> Any:
    """A policy that tells which tokens its decision was made of, as a language model's does."""
    return apps.Says(
        lambda request, cards: Proposal(
            {"small": 0.75, "large": 0.25},
            actions=(Action("call", card="small"),),
            propensity=0.75,
            prompt_hash="c0de",
            token_ids=IDS,
        )
    )


def two_turns() -> Any:
    """Calls both cards at once, sees the answers, and takes the second."""

    def propose(request: Any, cards: Any) -> Proposal:
        chances = {"small": 0.5, "large": 0.5}
        if request.turn == 1:
            both = (Action("call", card="small"), Action("call", card="large"))
            return Proposal(chances, actions=both, propensity=0.5)
        chosen = Action("select", call_id=request.answers[1].call_id)
        return Proposal(chances, actions=(chosen,), propensity=0.5)

    return apps.Says(propose, orchestrates=True)


def a_node(kind: str, fake: FakeOpenAIServer) -> Any:
    pool = apps.pool(fake, "small", "large", default="large")
    if kind == "explores":
        return XRouterNode(pool, policy="mix:small=0.5,large=0.5", cost_weight=0.3)
    if kind == "language model":
        return XRouterNode(pool, policy=language_model())
    if kind == "two turns":
        return XRouterNode(pool, policy=two_turns(), max_turns=2)
    if kind == "fails over":
        gone = apps.card(fake, "gone", model="nobody", price={"input": 1, "output": 1})
        return XRouterNode(ModelPool([gone, apps.card(fake, "small")]), policy="fixed:gone")
    return XRouterNode(pool, policy="fixed:small").bind_tools([weather], tool_choice="auto")


KINDS = ["explores", "language model", "two turns", "fails over", "tools"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_routed_request_is_the_same_episode_from_every_source(
    kind: str, fake: FakeOpenAIServer, captured: Captured
) -> None:
    graph = apps.app(a_node(kind, fake))
    for number in range(2):
        captured.ask(
            graph,
            f"question {number}",
            configurable={"thread_id": f"t{number}", "tenant": "acme"},
            metadata={"task": "geo"},
            tags=["prod"],
        )
    mine = captured.ours()
    assert len(mine) == 2
    for one, same in zip(mine, captured.theirs(), strict=True):
        assert one.to_dict() == same.to_dict()
    assert await captured.by_second_api() == mine
    assert (mine[0].task, mine[0].tags, mine[0].project) == ("geo", ("prod",), "p")
    assert (mine[0].thread_id, mine[0].tenant) == ("t0", "acme")


def test_what_an_episode_tells_of_a_request(
    fake: FakeOpenAIServer, captured: Captured, pool: ModelPool
) -> None:
    captured.ask(apps.app(a_node("language model", fake)), "what now?")
    (episode,) = captured.ours()
    assert episode.messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what now?"},
    )
    assert (episode.policy, episode.policy_version, episode.prompt_hash) == ("says", "7", "c0de")
    assert (episode.propensity, episode.scores) == (0.75, {"small": 0.75, "large": 0.25})
    assert episode.pool_fingerprint == pool.fingerprint
    assert set(episode.candidates) == {"small", "large"}
    (decision,) = episode.decisions
    assert decision["token_ids"] == IDS
    assert [call["card"] for call in decision["calls"]] == ["small"]
    (call,) = episode.calls
    assert (call.card, call.model, call.answer) == ("small", "small", "small says hello to you")
    assert call.usage is not None and call.usage["output_tokens"] > 0
    assert call.cost_usd == episode.cost_usd
    assert call.cost_usd is not None and float(call.cost_usd) > 0


def test_every_turn_and_call_of_a_long_request_is_there(
    fake: FakeOpenAIServer, captured: Captured
) -> None:
    captured.ask(apps.app(a_node("two turns", fake)))
    (episode,) = captured.ours()
    assert [call.card for call in episode.calls] == ["small", "large"]
    assert [call.answer is None for call in episode.calls] == [False, False]
    first, second = episode.decisions
    assert [call["card"] for call in first["calls"]] == ["small", "large"]
    assert second["select"] == episode.calls[1].call_id
    assert (episode.route, episode.answer) == ("large", episode.calls[1].answer)
    assert episode.propensity == 0.25


def test_a_failed_call_is_part_of_the_episode_that_another_card_answered(
    fake: FakeOpenAIServer, captured: Captured
) -> None:
    captured.ask(apps.app(a_node("fails over", fake)))
    (episode,) = captured.ours()
    assert episode.route == "small"
    assert [(call.card, call.answer is None) for call in episode.calls] == [
        ("gone", True),
        ("small", False),
    ]
    assert episode.calls[0].error


def test_bound_tools_and_an_answer_that_only_calls_them(captured: Captured) -> None:
    asks = Reply(tool_calls=[ToolCall("weather", {"city": "Rome"})])
    with FakeOpenAIServer([FakeModel(name="small", reply=asks)]) as server:
        node = XRouterNode(apps.pool(server, "small")).bind_tools([weather], tool_choice="any")
        captured.ask(apps.app(node))
    (episode,) = captured.ours()
    assert json.loads(episode.answer or "") == [{"name": "weather", "args": {"city": "Rome"}}]
    assert [t["function"]["name"] for t in episode.tools] == ["weather"]
    assert episode.tool_options["tool_choice"]
    assert episode.calls[0].answer == episode.answer


def test_a_conversation_with_tool_results_keeps_its_calls(
    captured: Captured, pool: ModelPool
) -> None:
    called = {"role": "assistant", "content": "", "tool_calls": []}
    called["tool_calls"] = [{"name": "weather", "args": {"city": "Rome"}, "id": "1"}]
    history = [HumanMessage("weather?"), called, ToolMessage("sunny", tool_call_id="1")]
    captured.ask(apps.app(XRouterNode(pool)), input={"messages": history})
    (episode,) = captured.ours()
    assert [m["role"] for m in episode.messages] == ["user", "assistant", "tool"]
    assert episode.messages[1]["tool_calls"] == called["tool_calls"]
    assert episode.messages[2]["tool_call_id"] == "1"


def test_the_router_may_be_wired_into_another_key_of_the_users_own_graph(
    captured: Captured, pool: ModelPool
) -> None:
    class State(TypedDict):
        chat: Annotated[list[AnyMessage], add]

    builder = StateGraph(State)
    name = add_router(builder, pool, policy="fixed:small", messages_key="chat")
    builder.add_edge(START, name)
    captured.ask(builder.compile(), input={"chat": [HumanMessage("hello")]})
    (episode,) = captured.ours()
    assert episode.messages == ({"role": "user", "content": "hello"},)
    assert episode.answer == "small says hello to you"
    assert captured.theirs() == [episode]


def test_a_streamed_request_is_an_episode_too(captured: Captured, pool: ModelPool) -> None:
    graph = apps.app(XRouterNode(pool, policy="fixed:small"))
    config: Any = {"callbacks": [captured.recorder]}
    chunks = list(graph.stream(apps.ask(), config, stream_mode="messages"))
    assert len(chunks) > 1
    captured.flush()
    (episode,) = captured.ours()
    assert episode.answer == "small says hello to you"
    assert episode.calls[0].answer == episode.answer


# --- feedback --------------------------------------------------------------------------------


def test_feedback_is_the_same_from_both_sources(captured: Captured, pool: ModelPool) -> None:
    graph = apps.app(XRouterNode(pool, policy="fixed:small"))
    captured.ask(graph)
    (episode,) = captured.ours()
    captured.say(trace_id=episode.trace_id, key="liked", score=0.2, comment="meh")
    right = {"answer": "Paris"}
    captured.say(trace_id=episode.trace_id, key="fix", score=None, correction=right)
    captured.say(trace_id=episode.trace_id, key="liked", score=0.9, value={"exact": 0.9})
    (mine,) = captured.ours()
    assert [(e["key"], e["score"]) for e in mine.feedback] == [
        ("liked", 0.2),
        ("fix", None),
        ("liked", 0.9),
    ]
    assert mine.feedback[1]["correction"] == right
    assert captured.theirs() == [mine]


def two_nodes(pool: ModelPool) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("first", XRouterNode(pool, policy="fixed:small"))
    builder.add_node("second", XRouterNode(pool, policy="fixed:large"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    return builder.compile()


def test_feedback_on_a_whole_trace_speaks_of_the_answer_that_the_trace_gave(
    captured: Captured, pool: ModelPool
) -> None:
    captured.ask(two_nodes(pool))
    before = captured.ours()
    assert [episode.route for episode in before] == ["small", "large"]
    trace = before[0].trace_id
    captured.say(trace_id=trace, key="whole", score=1.0)
    captured.say(trace_id=trace, run_id=before[1].run_id, key="step", score=0.25)
    after = captured.ours()
    assert [[(e["key"], e["about"]) for e in episode.feedback] for episode in after] == [
        [("whole", "trace")],
        [("whole", "answer"), ("step", "answer")],
    ]
    assert captured.theirs() == after


def test_feedback_on_a_models_run_speaks_of_that_call(
    fake: FakeOpenAIServer, captured: Captured
) -> None:
    captured.ask(apps.app(a_node("two turns", fake)))
    ((_, runs, _),) = captured.store.iter_traces()
    worked = [run for run in runs if run["run_type"] == "llm"]
    trace_id = runs[0]["trace_id"]
    captured.store.record_feedback(trace_id, "good", 1.0, run_id=worked[1]["id"])
    (episode,) = captured.ours()
    (entry,) = episode.feedback
    assert entry["about"] == "call"
    assert entry["call_id"] in {call.call_id for call in episode.calls}


# --- what trains nothing ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hide", "reason"), [("hide_inputs", HIDDEN), ("hide_outputs", HIDDEN_ANSWER)]
)
def test_what_langsmith_was_told_to_hide_is_counted(
    hide: str, reason: str, captured: Captured, pool: ModelPool
) -> None:
    setattr(captured.client, f"_{hide}", True)
    captured.ask(apps.app(XRouterNode(pool, policy="fixed:small")))
    assert captured.theirs() == []
    assert captured.report.skipped == {reason: 1}
    assert len(captured.ours()) == 1


def test_hashed_prompts_train_nothing_and_are_counted(captured: Captured, pool: ModelPool) -> None:
    with Recorder(captured.store, prompts="hashed") as hashing:
        graph = apps.app(XRouterNode(pool, policy="fixed:small", traces=hashing))
        graph.invoke(apps.ask())
    assert captured.ours() == []
    assert captured.report.skipped == {HASHED: 1}


@pytest.mark.parametrize(
    ("pattern", "kept"), [("capital of France", 1), ("What.*", 0), ("small says.*", 0)]
)
def test_a_masked_word_still_trains_but_a_masked_text_does_not(
    pattern: str, kept: int, captured: Captured, pool: ModelPool
) -> None:
    with Recorder(captured.store, redact=redact_patterns(pattern)) as redacting:
        graph = apps.app(XRouterNode(pool, policy="fixed:small", traces=redacting))
        graph.invoke(apps.ask())
    assert len(captured.ours()) == kept
    assert captured.report.skipped == ({} if kept else {REDACTED: 1})


def test_a_redaction_that_failed_left_nothing(captured: Captured, pool: ModelPool) -> None:
    def broken(value: Any) -> Any:
        raise ValueError("no")

    with Recorder(captured.store, redact=broken) as redacting:
        apps.app(XRouterNode(pool, traces=redacting)).invoke(apps.ask())
    assert captured.ours() == []
    assert captured.report.skipped == {REDACTED: 1}


def test_a_routed_request_that_failed_is_counted(
    captured: Captured, fake: FakeOpenAIServer
) -> None:
    gone = apps.card(fake, "gone", model="nobody")
    with pytest.raises(Exception, match="gone"):
        captured.ask(apps.app(XRouterNode(ModelPool([gone]))))
    assert captured.ours() == []
    assert captured.report.skipped == {NO_RECORD: 1}
    assert captured.theirs() == []
    assert captured.report.skipped == {NO_RECORD: 1}


def test_a_fixed_models_call_beside_the_router_is_left_to_the_app(
    captured: Captured, pool: ModelPool
) -> None:
    builder = StateGraph(MessagesState)
    guard = apps.scripted("guard", ["fine"]).model
    builder.add_node("guard", lambda state: {"messages": [guard.invoke(state["messages"])]})
    builder.add_node("model", XRouterNode(pool, policy="fixed:small"))
    builder.add_edge(START, "guard")
    builder.add_edge("guard", "model")
    captured.ask(builder.compile())
    assert [episode.route for episode in captured.ours()] == ["small"]
    assert captured.report.skipped == {BESIDE: 1}


# --- files -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_episodes_survive_json(kind: str, fake: FakeOpenAIServer, captured: Captured) -> None:
    captured.ask(apps.app(a_node(kind, fake)))
    (episode,) = captured.ours()
    assert Episode.from_dict(json.loads(json.dumps(episode.to_dict()))) == episode


def test_a_newer_versions_fields_are_passed_over(captured: Captured, pool: ModelPool) -> None:
    captured.ask(apps.app(XRouterNode(pool)))
    (episode,) = captured.ours()
    newer = {**episode.to_dict(), "invented_later": 1}
    newer["calls"] = [{**call, "invented_later": 1} for call in newer["calls"]]
    assert Episode.from_dict(newer) == episode


def test_traces_are_told_apart_and_sorted_by_their_start(
    captured: Captured, pool: ModelPool
) -> None:
    graph = apps.app(XRouterNode(pool, policy="fixed:small"))
    for number in range(3):
        captured.ask(graph, f"q{number}")
    runs = [run for trace in captured.store.iter_traces() for run in trace.runs]
    together = list(episodes(reversed(runs)))
    assert together == captured.ours()
    assert [e.messages[-1]["content"] for e in together] == ["q0", "q1", "q2"]
