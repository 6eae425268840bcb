"""``add_router(traces=...)`` keeps what ``XRouterNode(traces=...)`` keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Send

from tests.support.apps import app, ask, calls, card, pool, record
from xrouter_lg import Budget, Recorder, Router, TraceStore, XRouterNode, add_router
from xrouter_lg.episodes.extract import episodes
from xrouter_lg.errors import AllCandidatesFailedError
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, always, server_error

COMPARED = (
    *("messages", "answer", "route", "routed", "tools", "candidates", "scores", "propensity"),
    *("reason", "policy", "policy_version", "pool_fingerprint"),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TraceStore]:
    with TraceStore(tmp_path / "traces.db") as opened:
        yield opened


@pytest.fixture
def recorder(store: TraceStore) -> Iterator[Recorder]:
    with Recorder(store) as running:
        yield running


def wired(router: Any, checkpointer: Any = None, **options: Any) -> Any:
    builder = StateGraph(MessagesState)
    builder.add_edge(START, add_router(builder, router, **options))
    return builder.compile(checkpointer=checkpointer)


def tree(store: TraceStore, trace_id: str) -> list[tuple[str, str | None]]:
    """Each run's name with that of the run above it."""
    runs = store.runs(trace_id)
    names = {str(run["id"]): run["name"] for run in runs}
    return sorted((r["name"], names.get(str(r["parent_run_id"]))) for r in runs)


def learned_from(store: TraceStore) -> list[dict[str, Any]]:
    """The episodes, without what is another request's each time."""
    runs = [run for route in store.routes() for run in store.runs(route.trace_id)]
    found = []
    for episode in episodes(runs):
        told = {key: value for key, value in asdict(episode).items() if key in COMPARED}
        found.append({**told, "cards": [call.card for call in episode.calls]})
    return found


async def test_a_request_is_one_trace_of_its_steps_with_its_record(
    fake: FakeOpenAIServer, store: TraceStore, recorder: Recorder
) -> None:
    told = record(await wired(pool(fake), policy="cheapest", traces=recorder).ainvoke(ask()))
    recorder.flush()
    (route,) = store.routes()
    assert (route.record.route, route.record.cost_usd) == ("small", told["cost_usd"])
    assert route.trace_id == told["trace_id"]
    assert [pair for pair in tree(store, route.trace_id) if pair[0] != "ChatOpenAI"] == [
        ("call_small", "xrouter"),
        ("route", "xrouter"),
        ("route_collect", "xrouter"),
        ("xrouter", None),
    ]
    assert ("ChatOpenAI", "call_small") in tree(store, route.trace_id)
    assert all(run["end_time"] for run in store.runs(route.trace_id))


async def test_what_is_learned_from_is_that_of_a_node(
    fake: FakeOpenAIServer, tmp_path: Path
) -> None:
    found = []
    for place in ("steps", "node"):
        with TraceStore(tmp_path / f"{place}.db") as store, Recorder(store) as recorder:
            if place == "steps":
                graph = wired(pool(fake), policy="random", traces=recorder)
            else:
                graph = app(XRouterNode(pool(fake), policy="random", traces=recorder))
            await graph.ainvoke(ask(), {"configurable": {"allow": ["small"]}})
            recorder.flush()
            found.append(learned_from(store))
    assert found[0] == found[1] != []


def test_a_file_is_taken_and_a_sync_graph_works(
    fake: FakeOpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Recorder] = []

    class Noted(Recorder):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            opened.append(self)

    monkeypatch.setattr("xrouter_lg.graph.add_router.Recorder", Noted)
    told = record(wired(pool(fake), traces=tmp_path / "own.db").invoke(ask()))
    opened[0].close()
    with TraceStore(tmp_path / "own.db") as store:
        assert [route.trace_id for route in store.routes()] == [told["trace_id"]]


async def test_requests_at_once_and_calls_at_once_are_kept_apart(
    fake: FakeOpenAIServer, store: TraceStore, recorder: Recorder
) -> None:
    graph = wired(Router(pool(fake), calls("small", "large")), traces=recorder)
    await asyncio.gather(*(graph.ainvoke(ask(str(number))) for number in range(8)))
    recorder.flush()
    routes = store.routes()
    assert len({route.trace_id for route in routes}) == len(routes) == 8
    for route in routes:
        names = [name for name, _ in tree(store, route.trace_id)]
        assert names.count("ChatOpenAI") == 2 and names.count("xrouter") == 1


async def test_a_recorder_of_the_app_too_records_once(
    fake: FakeOpenAIServer, store: TraceStore, recorder: Recorder
) -> None:
    await wired(pool(fake), traces=recorder).ainvoke(ask(), {"callbacks": [recorder]})
    recorder.flush()
    (route,) = store.routes()
    assert ("route", "LangGraph") in tree(store, route.trace_id)


async def test_a_failed_request_leaves_its_record(
    fake: FakeOpenAIServer, store: TraceStore, recorder: Recorder
) -> None:
    fake.faults = FaultPlan({name: always(server_error()) for name in ("small", "large")})
    with pytest.raises(AllCandidatesFailedError):
        await wired(pool(fake), traces=recorder).ainvoke(ask())
    recorder.flush()
    (route,) = store.routes()
    assert route.record.error == "AllCandidatesFailedError"
    assert {run["end_time"] is None for run in store.runs(route.trace_id)} == {False}


async def test_a_request_that_asked_a_human_is_kept_when_it_is_answered(
    fake: FakeOpenAIServer, store: TraceStore, recorder: Recorder
) -> None:
    router = Router(pool(fake), budget=Budget("0.0001", on_exceeded="interrupt"))
    graph = wired(router, InMemorySaver(), traces=recorder)
    thread: Any = {"configurable": {"thread_id": "t"}}
    assert "__interrupt__" in await graph.ainvoke(ask(), thread)
    told = record(await graph.ainvoke(Command(resume=1), thread))
    recorder.flush()
    assert [route.trace_id for route in store.routes()] == [told["trace_id"]]


async def test_requests_that_were_sent_are_traces_too(
    fake: FakeOpenAIServer, store: TraceStore, recorder: Recorder
) -> None:
    builder = StateGraph(MessagesState)
    name = add_router(builder, pool(fake), traces=recorder)
    builder.add_conditional_edges(
        START,
        lambda state: [Send(name, {"messages": [HumanMessage(text)]}) for text in "ab"],
        [name],
    )
    await builder.compile().ainvoke(ask())
    recorder.flush()
    assert len({route.trace_id for route in store.routes()}) == 2


async def test_the_run_of_a_model_that_routes_is_in_the_trace(
    fake: FakeOpenAIServer, store: TraceStore, recorder: Recorder
) -> None:
    await wired(pool(fake), policy=card(fake, "guide"), traces=recorder).ainvoke(ask())
    recorder.flush()
    (route,) = store.routes()
    assert ("xrouter_policy", "route") in tree(store, route.trace_id)
