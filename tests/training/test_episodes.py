"""One extractor over both sources: the same requests, captured both ways at once."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langsmith import Client, tracing_context

from tests.langsmith_server import LangSmithServer
from training.episodes import HIDDEN, Episode, ExtractReport, episodes
from xrouter_lg import ModelCard, ModelPool, Recorder, XRouterNode
from xrouter_lg.testing import FakeOpenAIServer


@pytest.fixture
def langsmith() -> Iterator[LangSmithServer]:
    with LangSmithServer() as running:
        yield running


@pytest.fixture
def client(langsmith: LangSmithServer) -> Iterator[Client]:
    made = Client(api_url=langsmith.url, api_key="lsv2_pt_test")
    yield made
    made.cleanup()


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path / "t.db", project="p") as made:
        yield made


@pytest.fixture
def pool(fake: FakeOpenAIServer) -> ModelPool:
    return ModelPool(
        [
            ModelCard(name=n, model=n, base_url=fake.base_url, price={"input": 1, "output": 2})
            for n in ("small", "large")
        ],
        default="large",
    )


def app(node: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_node("model", node)
    builder.add_edge(START, "model")
    return builder.compile()


def plain(fake: FakeOpenAIServer, *models: str) -> Any:
    """A graph that never heard of routing: it calls each model in turn."""
    chats = [ChatOpenAI(model=m, base_url=fake.base_url, api_key="k") for m in models]  # type: ignore[arg-type]
    return app(lambda state: {"messages": [chat.invoke(state["messages"]) for chat in chats]})


def asked(graph: Any, recorder: Recorder, client: Client, text: str = "hi", **config: Any) -> None:
    with tracing_context(enabled=True, client=client, project_name="p"):
        graph.invoke(
            {"messages": [SystemMessage("be brief"), HumanMessage(text)]},
            {"callbacks": [recorder], **config},
        )
    client.flush()
    recorder.flush()


def ours(recorder: Recorder, **options: Any) -> list[Episode]:
    return [
        episode
        for trace in recorder.store.iter_traces()
        for episode in episodes(trace.runs, trace.feedback, **options)
    ]


def theirs(client: Client, **options: Any) -> list[Episode]:
    with pytest.warns(DeprecationWarning, match="list_runs"):
        runs = list(client.list_runs(project_name="p"))
    ids = [run.id for run in runs if run.parent_run_id is None]
    feedback = list(client.list_feedback(run_ids=ids))
    found = episodes(runs, feedback, project="p", **options)
    return sorted(found, key=lambda episode: episode.started_at)


def test_a_routed_request_is_the_same_episode_from_both(
    langsmith: LangSmithServer, recorder: Recorder, client: Client, pool: ModelPool
) -> None:
    graph = app(XRouterNode(pool, policy="mix:small=0.5,large=0.5", cost_weight=0.3))
    for number in range(6):
        asked(
            graph,
            recorder,
            client,
            f"question {number}",
            configurable={"thread_id": f"t{number}"},
            metadata={"task": "geo"},
            tags=["prod"],
        )
    mine = ours(recorder)
    session = langsmith.session("p")["id"]
    for number, episode in enumerate(mine):
        said = {"trace_id": episode.trace_id, "key": "liked", "score": number / 5, "comment": "so"}
        recorder.store.record_feedback(**said)
        client.create_feedback(**said, session_id=session)
    client.flush()
    mine, other = ours(recorder), theirs(client)
    for one, same in zip(mine, other, strict=True):
        assert one.to_dict() == same.to_dict()
    assert mine == other
    assert len(mine) == 6
    first = mine[0]
    assert first.messages == (
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "question 0"},
    )
    assert (first.propensity, first.policy, first.cost_weight) == (0.5, "mix", 0.3)
    assert (first.task, first.tags, first.project, first.thread_id) == ("geo", ("prod",), "p", "t0")
    assert [entry["score"] for entry in mine[5].feedback] == [1.0]
    (call,) = first.calls
    assert call.card == first.route
    assert call.answer == first.answer
    assert call.cost_usd == first.cost_usd != None  # noqa: E711


async def test_runs_of_the_second_api_give_the_same_episode(
    langsmith: LangSmithServer, recorder: Recorder, client: Client, pool: ModelPool
) -> None:
    asked(app(XRouterNode(pool, policy="cheapest")), recorder, client)
    wanted = ["ID", "TRACE_ID", "PARENT_RUN_IDS", "DOTTED_ORDER", "NAME", "RUN_TYPE", "EXTRA"]
    wanted += ["INPUTS", "OUTPUTS", "TAGS", "START_TIME", "END_TIME", "ERROR"]
    project = langsmith.session("p")["id"]
    runs = [run async for run in client.runs.query(project_ids=[project], selects=wanted)]
    await client.runs._client.close()  # there is no public way to close its connections
    assert list(episodes(runs, project="p")) == ours(recorder)


def test_a_graph_that_never_routed_is_an_episode_of_its_model(
    recorder: Recorder, client: Client, fake: FakeOpenAIServer, pool: ModelPool
) -> None:
    asked(plain(fake, "large"), recorder, client, "what now?", metadata={"thread_id": "t"})
    (mine,), (other,) = ours(recorder, pool=pool), theirs(client, pool=pool)
    assert (mine.routed, mine.route, mine.policy, mine.thread_id) == (False, "large", None, "t")
    assert mine.answer == "large says many more words than the others do"
    assert [m["content"] for m in mine.messages] == ["be brief", "what now?"]
    (call,) = mine.calls
    assert call.usage is not None
    expected = (call.usage["input_tokens"] + 2 * call.usage["output_tokens"]) / 1e6
    assert float(call.cost_usd or 0) == pytest.approx(expected)
    # Each recorder has its own clock.
    assert mine.started_at == pytest.approx(other.started_at, abs=0.5)
    assert untimed(mine) == untimed(other)


def untimed(episode: Episode) -> Episode:
    calls = tuple(dataclasses.replace(call, latency_s=0.0) for call in episode.calls)
    return dataclasses.replace(episode, started_at=0.0, calls=calls)


def test_without_a_pool_its_cost_is_unknown(
    recorder: Recorder, client: Client, fake: FakeOpenAIServer
) -> None:
    asked(plain(fake, "large"), recorder, client)
    (episode,) = ours(recorder)
    assert episode.cost_usd is None
    assert episode.calls[0].cost_usd is None


def test_several_calls_of_one_model_are_one_episode(
    recorder: Recorder, client: Client, fake: FakeOpenAIServer, pool: ModelPool
) -> None:
    asked(plain(fake, "small", "small"), recorder, client)
    (episode,) = ours(recorder, pool=pool)
    assert len(episode.calls) == 2
    assert float(episode.cost_usd or 0) == pytest.approx(
        sum(float(call.cost_usd or 0) for call in episode.calls)
    )


def test_several_models_without_a_router_are_an_episode_each(
    recorder: Recorder, client: Client, fake: FakeOpenAIServer
) -> None:
    asked(plain(fake, "small", "large"), recorder, client)
    assert [episode.route for episode in ours(recorder)] == ["small", "large"]
    assert {episode.route for episode in theirs(client)} == {"small", "large"}


def test_a_failed_call_is_part_of_the_episode_that_another_card_answered(
    recorder: Recorder, client: Client, fake: FakeOpenAIServer
) -> None:
    cards = [
        ModelCard(name=n, model=m, base_url=fake.base_url, price={"input": p, "output": p})
        for n, m, p in (("gone", "nobody", 1), ("small", "small", 2))
    ]
    asked(app(XRouterNode(ModelPool(cards), policy="cheapest")), recorder, client)
    (episode,) = ours(recorder)
    assert episode.route == "small"
    assert [(call.card, call.answer is None) for call in episode.calls] == [
        ("gone", True),
        ("small", False),
    ]
    assert episode.calls[0].error
    assert [episode] == theirs(client)


def test_two_routed_requests_of_one_trace_keep_their_own_feedback(
    recorder: Recorder, client: Client, pool: ModelPool
) -> None:
    builder = StateGraph(MessagesState)
    builder.add_node("first", XRouterNode(pool, policy="fixed:small"))
    builder.add_node("second", XRouterNode(pool, policy="fixed:large"))
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    asked(builder.compile(), recorder, client)
    before = ours(recorder)
    assert [episode.route for episode in before] == ["small", "large"]
    trace = before[0].trace_id
    recorder.store.record_feedback(trace, "step", 0.25, run_id=before[1].run_id)
    recorder.store.record_feedback(trace, "whole", 1.0)
    after = ours(recorder)
    assert [sorted(e["key"] for e in episode.feedback) for episode in after] == [
        ["whole"],
        ["step", "whole"],
    ]


@pytest.mark.parametrize("routed", [True, False])
def test_hidden_inputs_train_nothing_and_are_counted(
    routed: bool, recorder: Recorder, client: Client, pool: ModelPool, fake: FakeOpenAIServer
) -> None:
    graph = app(XRouterNode(pool, policy="cheapest")) if routed else plain(fake, "small")
    asked(graph, recorder, client)
    ((_, runs, feedback),) = recorder.store.iter_traces()
    report = ExtractReport()
    hidden = [{**run, "inputs": {}} for run in runs]
    assert list(episodes(hidden, feedback, report=report)) == []
    assert report.skipped == {HIDDEN: 1}


def test_episodes_survive_json(recorder: Recorder, client: Client, pool: ModelPool) -> None:
    asked(app(XRouterNode(pool, policy="cheapest")), recorder, client)
    (episode,) = ours(recorder)
    assert Episode.from_dict(json.loads(json.dumps(episode.to_dict()))) == episode
    newer = {**episode.to_dict(), "invented_later": 1}
    assert Episode.from_dict(newer) == episode


def test_a_failed_request_is_counted_as_unanswered(recorder: Recorder, client: Client) -> None:
    dead = ChatOpenAI(model="m", base_url="http://127.0.0.1:1/v1", api_key="k", max_retries=0)  # type: ignore[arg-type]
    graph = app(lambda state: {"messages": [dead.invoke(state["messages"])]})
    with pytest.raises(Exception, match="onnect"):
        asked(graph, recorder, client)
    recorder.flush()
    ((_, runs, _),) = recorder.store.iter_traces()
    report = ExtractReport()
    assert list(episodes(runs, report=report)) == []
    assert sum(report.skipped.values()) == 1
