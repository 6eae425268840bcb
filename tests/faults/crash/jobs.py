"""What the killed processes do."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from tests.support.apps import PRICES, app, ask, calls, scripted
from xrouter_lg import ModelCard, ModelPool, Recorder, Router, XRouterNode, build_router_graph
from xrouter_lg.checkpoints.aliases import promote

CONVERSATIONS = 12
REQUESTS = 40


def cards(url: str, *names: str) -> ModelPool:
    return ModelPool(
        [ModelCard(name=n, model=n, base_url=url, price=PRICES[n], max_retries=0) for n in names]
    )


def serve(database: str, url: str) -> None:
    """Conversations over a checkpointer, four at a time; those that are under way go on."""
    asyncio.run(_serve(database, url))


async def _serve(database: str, url: str) -> None:
    router = Router(cards(url, "small", "large"), calls("large", "small"), max_turns=2)
    places = asyncio.Semaphore(4)
    async with AsyncSqliteSaver.from_conn_string(database) as saver:
        graph = build_router_graph(router).compile(checkpointer=saver)

        async def one(number: int) -> None:
            config: Any = {"configurable": {"thread_id": f"t{number}"}}
            async with places:
                state = await graph.aget_state(config)
                said = state.values.get("messages") or []
                # Not by `state.next`, which passes over a step whose writes are kept.
                if said and said[-1].type == "ai":
                    return
                await graph.ainvoke(None if said else ask(f"question {number}"), config)

        await asyncio.gather(*(one(number) for number in range(CONVERSATIONS)))


def record(store: str, answered: str, durability: Any) -> None:
    """Requests whose traces are kept; a line for each that was answered."""
    pool = ModelPool([scripted("small"), scripted("large")])
    with Recorder(store, durability=durability) as recorder:
        graph = app(XRouterNode(pool, policy="cheapest", traces=recorder))
        lines = os.open(answered, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number in range(REQUESTS):
            state = graph.invoke(ask(f"question {number}"))
            found = state["messages"][-1].response_metadata["xrouter"]
            os.write(lines, f"{found['trace_id']}\n".encode())
        os.close(lines)


def move(root: str, names: str) -> None:
    """One checkpoint after the other into production."""
    for name in names.split(","):
        promote(Path(root) / name, root=root)


def is_whole(database: Path) -> None:
    """Raises where a SQLite file is damaged."""
    with sqlite3.connect(database) as connection:
        [(said,)] = connection.execute("PRAGMA integrity_check").fetchall()
    assert said == "ok", said
