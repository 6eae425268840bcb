"""Graphs that never heard of routing: their model calls as episodes."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langsmith import traceable
from langsmith.wrappers import wrap_openai

from tests.episodes.captured import Captured
from tests.support import apps
from xrouter_lg import ModelCard, ModelPool, Recorder
from xrouter_lg.episodes.episode import Episode
from xrouter_lg.episodes.extract import (
    HASHED,
    HIDDEN,
    HIDDEN_ANSWER,
    NO_MODEL,
    UNANSWERED,
    ExtractReport,
    episodes,
)
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    Reply,
    ScriptedChatModel,
    ToolCall,
    always,
    first,
    missing_usage,
    server_error,
    truncated,
)


def chat(server: FakeOpenAIServer, model: str, **options: Any) -> ChatOpenAI:
    defaults = {"base_url": server.base_url, "api_key": "k", "max_retries": 0}
    return ChatOpenAI(model=model, **{**defaults, **options})


def plain(*chats: Any) -> Any:
    """A graph that asks each model in turn the same question."""

    def model(state: MessagesState) -> dict[str, Any]:
        return {"messages": [one.invoke(state["messages"]) for one in chats]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", model)
    builder.add_edge(START, "model")
    return builder.compile()


@pytest.fixture
def pool(fake: FakeOpenAIServer) -> ModelPool:
    return apps.pool(fake, "small", "large")


def untimed(episode: Episode) -> Episode:
    """Without what each recorder took from its own clock."""
    calls = tuple(dataclasses.replace(call, latency_s=0.0) for call in episode.calls)
    return dataclasses.replace(episode, started_at=0.0, latency_s=0.0, calls=calls)


async def test_a_plain_graph_is_an_episode_of_its_model_from_every_source(
    captured: Captured, fake: FakeOpenAIServer, pool: ModelPool
) -> None:
    graph = plain(chat(fake, "large"))
    captured.ask(graph, "what now?", metadata={"thread_id": "t"}, tags=["task:geo"])
    (mine,), (other,) = captured.ours(pool=pool), captured.theirs(pool=pool)
    (third,) = await captured.by_second_api(pool=pool)
    assert untimed(mine) == untimed(other) == untimed(third)
    assert mine.started_at == pytest.approx(other.started_at, abs=0.5)
    assert (mine.routed, mine.route, mine.policy) == (False, "large", None)
    assert (mine.thread_id, mine.task, mine.project) == ("t", "geo", "p")
    assert [m["content"] for m in mine.messages] == ["be brief", "what now?"]
    (call,) = mine.calls
    assert call.answer == mine.answer == "large says many more words than the others do"
    assert Decimal(call.cost_usd or 0) == apps.true_cost(fake)


def test_without_a_pool_its_cost_is_unknown(captured: Captured, fake: FakeOpenAIServer) -> None:
    captured.ask(plain(chat(fake, "large")))
    (episode,) = captured.ours()
    assert (episode.cost_usd, episode.calls[0].cost_usd) == (None, None)


def test_what_the_provider_said_it_cost_needs_no_pool_and_wins(captured: Captured) -> None:
    with FakeOpenAIServer([FakeModel(name="small", cost_usd=0.5)]) as server:
        captured.ask(plain(chat(server, "small")))
        priced = apps.pool(server, "small")
    assert [e.cost_usd for e in captured.ours()] == ["0.5"]
    assert [e.cost_usd for e in captured.ours(pool=priced)] == ["0.5"]


def test_a_model_that_the_pool_does_not_have_has_its_list_price(
    captured: Captured, pool: ModelPool
) -> None:
    with FakeOpenAIServer([FakeModel(name="gpt-4o-mini", reply="yes")]) as server:
        captured.ask(plain(chat(server, "gpt-4o-mini")))
    (episode,) = captured.ours(pool=pool)
    assert episode.route == "gpt_4o_mini"
    assert episode.cost_usd is not None and Decimal(episode.cost_usd) > 0
    assert captured.ours()[0].cost_usd is None


def test_two_cards_for_one_model_leave_its_price_unknown(
    captured: Captured, fake: FakeOpenAIServer
) -> None:
    captured.ask(plain(chat(fake, "small")))
    cards = [apps.card(fake, n, model="small", price={"input": 1, "output": 1}) for n in "ab"]
    (episode,) = captured.ours(pool=ModelPool(cards))
    assert (episode.route, episode.cost_usd) == ("small", None)


def test_a_provider_prefix_is_no_part_of_a_cards_name(captured: Captured) -> None:
    with FakeOpenAIServer([FakeModel(name="acme/small-1.5")]) as server:
        captured.ask(plain(chat(server, "acme/small-1.5")))
        card = ModelCard(name="small-1.5", model="openai:other", price={"input": 1, "output": 1})
    (episode,) = captured.ours(pool=ModelPool([card]))
    assert episode.route == "small_1_5"
    assert episode.cost_usd is not None


# --- what belongs together ---------------------------------------------------------------------


@tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


def agents_server(city: str = "Rome") -> FakeOpenAIServer:
    """A model that asks for the weather once, and then tells it."""

    def reply(body: dict[str, Any]) -> Reply:
        if body["messages"][-1]["role"] == "tool":
            return Reply(f"It is {body['messages'][-1]['content']}.")
        return Reply(tool_calls=[ToolCall("weather", {"city": city})])

    return FakeOpenAIServer([FakeModel(name="small", reply=reply)])


async def test_an_agents_loop_is_one_episode_at_the_cost_of_all_its_calls(
    captured: Captured,
) -> None:
    with agents_server() as server:
        pool = apps.pool(server, "small")
        agent = create_agent(chat(server, "small"), [weather], system_prompt="You know weather.")
        captured.ask(agent, input={"messages": [HumanMessage("Weather in Rome?")]})
        (mine,), (other,) = captured.ours(pool=pool), captured.theirs(pool=pool)
        spent = apps.true_cost(server)
    assert untimed(mine) == untimed(other)
    assert [m["role"] for m in mine.messages] == ["system", "user"]
    assert mine.answer == "It is sunny in Rome."
    assert len(mine.calls) == 2
    assert "weather" in (mine.calls[0].answer or "")
    assert [t["function"]["name"] for t in mine.tools] == ["weather"]
    assert Decimal(mine.cost_usd or 0) == spent


def test_a_loop_whose_system_prompt_changes_is_still_one(captured: Captured) -> None:
    first = [SystemMessage("step 1"), HumanMessage("go")]
    then = [SystemMessage("step 2"), HumanMessage("go"), AIMessage("one"), HumanMessage("more")]
    model = ScriptedChatModel(["one", "two"])
    loop = RunnableLambda(lambda _: [model.invoke(first), model.invoke(then)][-1])
    captured.ask(loop, input="x")
    (episode,) = captured.ours()
    assert (len(episode.calls), episode.answer) == (2, "two")


def test_independent_questions_to_one_model_are_an_episode_each(captured: Captured) -> None:
    model = ScriptedChatModel(lambda messages: f"about {messages[-1].content}")
    mapped = RunnableLambda(lambda texts: model.batch([[HumanMessage(t)] for t in texts]))
    captured.ask(mapped, input=["cats", "dogs", "cats"])
    found = [(e.messages[-1]["content"], e.answer) for e in captured.ours()]
    assert sorted(found) == [("cats", "about cats")] * 2 + [("dogs", "about dogs")]


def test_a_call_that_is_made_again_after_a_failure_belongs_to_the_same_episode(
    captured: Captured, fake: FakeOpenAIServer, pool: ModelPool
) -> None:
    fake.faults = FaultPlan({"small": first(1, server_error(500))})
    captured.ask(plain(chat(fake, "small").with_retry(stop_after_attempt=3)))
    (episode,) = captured.ours(pool=pool)
    assert [call.answer is None for call in episode.calls] == [True, False]
    assert episode.calls[0].error
    # What the failed attempt cost, nobody knows.
    assert episode.cost_usd is None
    assert captured.report.skipped == {}


def test_a_fallback_is_the_episode_of_the_model_that_answered(
    captured: Captured, fake: FakeOpenAIServer
) -> None:
    fake.faults = FaultPlan({"small": always(server_error(500))})
    captured.ask(plain(chat(fake, "small").with_fallbacks([chat(fake, "large")])))
    assert [episode.route for episode in captured.ours()] == ["large"]
    assert captured.report.skipped == {UNANSWERED: 1}


def test_several_models_of_one_trace_are_an_episode_each(
    captured: Captured, fake: FakeOpenAIServer
) -> None:
    captured.ask(plain(chat(fake, "small"), chat(fake, "large")))
    mine = captured.ours()
    assert [episode.route for episode in mine] == ["small", "large"]
    trace = mine[0].trace_id
    captured.store.record_feedback(trace, "liked", 1.0)
    assert [[e["about"] for e in episode.feedback] for episode in captured.ours()] == [
        ["trace"],
        ["answer"],
    ]


def test_a_loop_that_changes_its_model_is_an_episode_per_call(captured: Captured) -> None:
    one, two = (
        ScriptedChatModel(["a"], model_name="one"),
        ScriptedChatModel(["b"], model_name="two"),
    )
    begun = [HumanMessage("go")]
    more = [*begun, AIMessage("a"), HumanMessage("on")]
    captured.ask(RunnableLambda(lambda _: (one.invoke(begun), two.invoke(more))[1]), input="x")
    found = captured.ours()
    assert [(e.route, len(e.messages)) for e in found] == [("one", 1), ("two", 3)]


# --- odd runs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("usage", [True, False])
def test_a_streamed_call(captured: Captured, fake: FakeOpenAIServer, usage: bool) -> None:
    pool = apps.pool(fake, "small")
    graph = plain(chat(fake, "small", stream_usage=usage))
    config: Any = {"callbacks": [captured.recorder]}
    assert len(list(graph.stream(apps.ask(), config, stream_mode="messages"))) > 1
    captured.flush()
    (episode,) = captured.ours(pool=pool)
    assert episode.answer == "small says hello to you"
    assert (episode.calls[0].usage is not None) is usage
    assert (episode.cost_usd is not None) is usage


def test_no_usage_is_no_cost(captured: Captured, fake: FakeOpenAIServer, pool: ModelPool) -> None:
    fake.faults = FaultPlan(default=missing_usage())
    captured.ask(plain(chat(fake, "small")))
    (episode,) = captured.ours(pool=pool)
    assert (episode.calls[0].usage, episode.cost_usd) == (None, None)
    assert [untimed(e) for e in captured.theirs(pool=pool)] == [untimed(episode)]


def test_a_cut_answer_is_marked(captured: Captured, fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan(default=truncated(2))
    captured.ask(plain(chat(fake, "small")))
    assert captured.ours()[0].calls[0].truncated


def test_pictures_stay_in_the_messages(captured: Captured, fake: FakeOpenAIServer) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    captured.ask(plain(chat(fake, "small")), [{"type": "text", "text": "what is it?"}, picture])
    (episode,) = captured.ours()
    content = episode.messages[-1]["content"]
    assert [block["type"] for block in content] == ["text", "image_url"]


def test_calls_of_openais_own_client_count_too(captured: Captured) -> None:
    openai = pytest.importorskip("openai")
    with FakeOpenAIServer([FakeModel(name="small", reply="Paris")]) as server:
        client = wrap_openai(openai.OpenAI(base_url=server.base_url, api_key="k"))

        @traceable(client=captured.client, project_name="p")
        def app(question: str) -> str:
            asked = [{"role": "user", "content": question}]
            done = client.chat.completions.create(model="small", messages=asked)
            return str(done.choices[0].message.content)

        from langsmith import tracing_context

        with tracing_context(enabled=True, client=captured.client, project_name="p"):
            app("capital of France?")
        captured.flush()
        pool = apps.pool(server, "small")
        spent = apps.true_cost(server)
    (episode,) = captured.theirs(pool=pool)
    assert (episode.route, episode.answer) == ("small", "Paris")
    assert episode.messages == ({"role": "user", "content": "capital of France?"},)
    assert Decimal(episode.cost_usd or 0) == spent


@pytest.mark.parametrize(
    ("hide", "reason"), [("hide_inputs", HIDDEN), ("hide_outputs", HIDDEN_ANSWER)]
)
def test_what_langsmith_was_told_to_hide_is_counted(
    hide: str, reason: str, captured: Captured, fake: FakeOpenAIServer
) -> None:
    setattr(captured.client, f"_{hide}", True)
    captured.ask(plain(chat(fake, "small")))
    assert captured.theirs() == []
    assert captured.report.skipped == {reason: 1}


def test_hashed_prompts_train_nothing(captured: Captured, fake: FakeOpenAIServer) -> None:
    with Recorder(captured.store, prompts="hashed") as hashing:
        plain(chat(fake, "small")).invoke(apps.ask(), {"callbacks": [hashing]})
    ((_, runs, _),) = captured.store.iter_traces()
    for given in (runs, [{**run, "extra": {}} for run in runs]):
        report = ExtractReport()
        assert list(episodes(given, report=report)) == []
        assert report.skipped == {HASHED: 1}


def test_a_call_that_failed_is_counted(captured: Captured, fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan(default=server_error(500))
    with pytest.raises(Exception, match="500"):
        captured.ask(plain(chat(fake, "small")))
    assert captured.ours() == []
    assert captured.report.skipped == {UNANSWERED: 1}


def test_a_trace_without_a_model_is_counted(captured: Captured) -> None:
    captured.ask(RunnableLambda(lambda text: text), input="x")
    assert captured.ours() == []
    assert (captured.report.traces, captured.report.skipped) == (1, {NO_MODEL: 1})
