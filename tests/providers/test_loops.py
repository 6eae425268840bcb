"""Any number of event loops and threads, sync beside async."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

from tests.support.apps import Graph, answer, ask
from tests.support.provider_matrix import Provider, answered, cells, record_of, routed
from xrouter_lg.testing import FakeModel, FakeProviders, Reply, Usage

USAGE = Usage(prompt_tokens=100, completion_tokens=10)
COST = Decimal("0.0002")


@cells("event loops", "a new event loop per request")
def test_every_request_has_a_loop_of_its_own(provider: Provider, server: FakeProviders) -> None:
    graph = _graph(provider, server)
    _all_right(server, [asyncio.run(_ask(graph)) for _ in range(4)])


@cells("event loops", "sync calls between async ones")
def test_sync_beside_async(provider: Provider, server: FakeProviders) -> None:
    graph = _graph(provider, server)
    records = []
    for _ in range(2):
        records += [record_of(answered(graph)), asyncio.run(_ask(graph))]
    _all_right(server, records)


@cells("event loops", "a loop in each of four threads, several requests at once in each")
def test_loops_in_threads(provider: Provider, server: FakeProviders) -> None:
    graph = _graph(provider, server)

    async def several() -> list[dict[str, Any]]:
        return await asyncio.gather(*(_ask(graph) for _ in range(3)))

    with ThreadPoolExecutor(4) as threads:
        done = threads.map(lambda _: asyncio.run(several()), range(4))
        records = [record for part in done for record in part]
    _all_right(server, records)


def _graph(provider: Provider, server: FakeProviders) -> Graph:
    server.add_model(FakeModel(name="m", reply=Reply("It is Paris.", usage=USAGE)))
    return routed(provider.card(server))


async def _ask(graph: Graph) -> dict[str, Any]:
    return record_of(answer(await graph.ainvoke(ask())))


def _all_right(server: FakeProviders, records: list[dict[str, Any]]) -> None:
    """One HTTP request per answer, and each one charged."""
    assert len(server.requests) == len(records)
    assert [charge["error"] for it in records for charge in it["charges"]] == [None] * len(records)
    assert {Decimal(it["cost_usd"]) for it in records} == {COST}
