"""``build_router_graph``: the router as a graph of its own."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from tests.support.apps import app, ask, calls, pool, record
from tests.support.waiting import comes_about
from xrouter_lg import ModelPool, Router, XRouterNode, build_router_graph
from xrouter_lg.testing import FakeModel, FakeOpenAIServer


def test_the_mermaid_picture_names_every_step(fake: FakeOpenAIServer) -> None:
    picture = build_router_graph(pool(fake)).compile().get_graph().draw_mermaid()
    for name in ("route", "call_small", "call_large", "collect"):
        assert f"\t{name}(" in picture


@pytest.mark.parametrize(("turns", "back"), [(1, False), (3, True)])
def test_an_edge_back_to_route_is_drawn_only_where_there_are_further_turns(
    fake: FakeOpenAIServer, turns: int, back: bool
) -> None:
    graph = build_router_graph(pool(fake), max_turns=turns).compile().get_graph()
    assert (("collect", "route") in {(e.source, e.target) for e in graph.edges}) is back


async def test_it_is_uncompiled_and_takes_the_users_checkpointer(fake: FakeOpenAIServer) -> None:
    graph = build_router_graph(pool(fake)).compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke(ask(), config)  # type: ignore[arg-type]
    assert len((await graph.aget_state(config)).values["messages"]) == 2


async def test_a_user_can_stop_before_a_call(fake: FakeOpenAIServer) -> None:
    graph = build_router_graph(pool(fake)).compile(
        checkpointer=InMemorySaver(), interrupt_before=["call_small"]
    )
    config: Any = {"configurable": {"thread_id": "t"}}
    await graph.ainvoke(ask(), config)  # type: ignore[arg-type]
    assert not fake.requests
    assert record(await graph.ainvoke(None, config))["route"] == "small"


async def test_its_private_state_is_empty_at_the_end(fake: FakeOpenAIServer) -> None:
    state = await build_router_graph(pool(fake)).compile().ainvoke(ask())  # type: ignore[arg-type]
    assert {k: v for k, v in state.items() if k != "messages"} == {
        "router_messages": [],
        "xrouter_turns": [],
        "xrouter_results": [],
    }


# A pool file that changes while requests are under way.


@pytest.fixture
def pool_file(fake: FakeOpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("xrouter_lg.pool.file.CHECK_EVERY_S", 0.0)
    path = tmp_path / "pool.yaml"

    def write(*names: str) -> Path:
        entry = "  - {{name: {0}, model: {0}, base_url: '{1}', price: {{input: 1, output: 1}}}}\n"
        path.write_text("models:\n" + "".join(entry.format(n, fake.base_url) for n in names))
        return path

    return write


async def test_a_card_that_joins_can_be_called_through_a_node(
    fake: FakeOpenAIServer, pool_file: Any
) -> None:
    graph = app(XRouterNode(ModelPool.from_yaml(pool_file("small"))))
    await graph.ainvoke(ask())
    pool_file("small", "large")
    found = record(await graph.ainvoke(ask(), {"configurable": {"allow": ["large"]}}))
    assert found["route"] == "large"


async def test_a_request_under_way_keeps_the_card_that_has_left(
    fake: FakeOpenAIServer, pool_file: Any
) -> None:
    fake.add_model(FakeModel(name="small", reply="late", latency_s=0.3))
    graph = app(XRouterNode(ModelPool.from_yaml(pool_file("small", "large"))))
    task = asyncio.create_task(graph.ainvoke(ask()))
    while not fake.requests:
        await asyncio.sleep(0.01)
    pool_file("medium")
    other = record(await graph.ainvoke(ask()))
    assert (record(await task)["route"], other["route"]) == ("small", "medium")


async def test_failover_of_a_request_under_way_stays_with_its_pool(
    fake: FakeOpenAIServer, pool_file: Any
) -> None:
    from xrouter_lg.testing import FaultPlan, hang

    fake.faults = FaultPlan({"small": hang(0.3)})
    pool_file("small", "large")
    path = pool_file("small", "large")
    path.write_text(path.read_text().replace("price:", "max_retries: 0, price:"))
    graph = app(XRouterNode(ModelPool.from_yaml(path)))
    task = asyncio.create_task(graph.ainvoke(ask()))
    while not fake.requests:
        await asyncio.sleep(0.01)
    pool_file("medium")
    await graph.ainvoke(ask())
    assert record(await task)["route"] == "large"


async def test_reloading_under_load_drops_no_request(
    fake: FakeOpenAIServer, pool_file: Any
) -> None:
    fake.add_model(FakeModel(name="small", latency_s=0.02))
    graph = app(XRouterNode(ModelPool.from_yaml(pool_file("small", "large")), policy="random"))
    stop = asyncio.Event()
    answered: list[str] = []

    async def ask_on() -> None:
        while not stop.is_set():
            answered.append(record(await graph.ainvoke(ask()))["route"])

    tasks = [asyncio.create_task(ask_on()) for _ in range(8)]
    sets = [("small", "medium"), ("large", "medium"), ("medium",), ("small", "large")]
    for i in range(16):
        pool_file(*sets[i % 4])
        enough = len(answered) + 16  # each of the eight asks once more under the new pool
        await comes_about(lambda enough=enough: len(answered) >= enough)
    stop.set()
    await asyncio.gather(*tasks)
    assert len(answered) == len(fake.requests)
    assert set(answered) == {"small", "medium", "large"}


async def test_a_broken_file_keeps_the_old_pool(fake: FakeOpenAIServer, pool_file: Any) -> None:
    path = pool_file("small")
    graph = app(XRouterNode(ModelPool.from_yaml(path)))
    path.write_text("models: [")
    assert record(await graph.ainvoke(ask()))["route"] == "small"


async def test_a_new_card_without_its_key_costs_a_fallback_and_no_money(
    fake: FakeOpenAIServer, pool_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_KEY", raising=False)
    path = pool_file("small")
    graph = app(XRouterNode(ModelPool.from_yaml(path)))
    await graph.ainvoke(ask())
    pool_file("large", "small")
    path.write_text(
        path.read_text().replace("name: large,", "name: large, api_key_env: NOT_SET_KEY,")
    )
    found = record(await graph.ainvoke(ask()))
    assert (found["route"], found["fallbacks"][0]["error"]) == ("small", "auth")
    assert found["charges"][0]["cost_usd"] == "0"


async def test_the_same_router_in_a_graph_and_a_node_shares_health(fake: FakeOpenAIServer) -> None:
    router = Router(pool(fake))
    for _ in range(5):
        router.workers.cards.breaker("worker:small").failure()
    graph = build_router_graph(router).compile()
    by_graph = record(await graph.ainvoke(ask()))  # type: ignore[arg-type]
    by_node = record(await app(XRouterNode(router)).ainvoke(ask()))
    assert by_graph["route"] == by_node["route"] == "large"


async def test_a_fan_out_of_four_is_the_most(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake), policy=calls(*["small"] * 4)))
    assert len(record(await graph.ainvoke(ask()))["charges"]) == 4
