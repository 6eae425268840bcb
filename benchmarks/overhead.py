"""What routing costs per request, beside the same shape written by hand.

    python benchmarks/overhead.py [--runs 500] [--only-threads]

Median and 99th percentile in milliseconds per request, async, one request at a time, instant
models, after a warm-up. Every variant takes its turn in each of ten rounds, so that a busy
machine slows all of them alike. Then what a thread of 30 questions keeps in a SQLite checkpointer,
beside a node that calls a model by itself.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from benchmarks.results import append, show
from benchmarks.shapes import InstantChat, app_around, hand_written, instant_pool, plain_node
from xrouter_lg import ChatXRouter, Recorder, XRouterNode

ROUNDS = 10
WARM_UP = 30
QUESTION = "Please tell me something about this subject, in a few sentences. " * 4

Run = Callable[[], Awaitable[Any]]


def _of(app: Any) -> Run:
    return lambda: app.ainvoke({"messages": [HumanMessage("What is the capital of France?")]})


async def measure(variants: dict[str, Run], runs: int) -> dict[str, list[float]]:
    """Seconds per request of each variant."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for run in variants.values():
        for _ in range(WARM_UP):
            await run()
    for _ in range(ROUNDS):
        for name, run in variants.items():
            for _ in range(runs // ROUNDS):
                started = time.perf_counter()
                await run()
                seconds[name].append(time.perf_counter() - started)
    return seconds


async def main(runs: int) -> None:
    from tests.support.langsmith_server import LangSmithServer

    load = os.getloadavg()[0]
    model = InstantChat()
    models: dict[str, Any] = {"small": model, "large": InstantChat()}
    message = [HumanMessage("What is the capital of France?")]
    with tempfile.TemporaryDirectory() as folder:
        recorder = Recorder(Path(folder) / "traces.db")
        variants: dict[str, Run] = {
            "the model alone": lambda: model.ainvoke(message),
            "(a) one plain node": _of(app_around(plain_node(model))),
            "(b) hand-written, same shape": _of(app_around(hand_written(models, "small"))),
            "(c) XRouterNode, recorder off": _of(
                app_around(XRouterNode(instant_pool(), policy="fixed:small"))
            ),
            "(f) ChatXRouter by itself": _chat(message),
            "(d) XRouterNode, recorder on": _of(
                app_around(XRouterNode(instant_pool(), policy="fixed:small", traces=recorder))
            ),
        }
        seconds = await measure(variants, runs)
        recorder.close()
        dropped = recorder.dropped
        # LangSmith is switched on for a whole process, so it is measured on its own, with the
        # hand-written graph beside it again.
        with LangSmithServer() as server:
            seconds |= await _with_langsmith(server.url, models, runs)
    base = statistics.median(seconds["(b) hand-written, same shape"])
    rows, figures = [], []
    for name, values in seconds.items():
        median, p99 = statistics.median(values), statistics.quantiles(values, n=100)[98]
        rows.append([name, f"{median * 1e3:.2f}", f"{p99 * 1e3:.2f}", f"{median / base:.2f}"])
        figures.append(f"{name} {median * 1e3:.2f} ms (×{median / base:.2f})")
    show(f"Per request, {runs} runs", ["variant", "median ms", "p99 ms", "ratio to (b)"], rows)
    print(f"dropped runs: {dropped}")
    threads = await asyncio.to_thread(show_threads, model)
    append("; ".join([*figures, threads, f"load {load:.1f} at the start"]))


def _chat(message: list[HumanMessage]) -> Run:
    chat = ChatXRouter(instant_pool(), policy="fixed:small")
    return lambda: chat.ainvoke(message)


def thread_bytes(node: Any, turns: int = 30) -> int:
    """Bytes of a SQLite checkpointer after a thread of so many questions."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "thread.db"
        with SqliteSaver.from_conn_string(str(path)) as saver:
            builder = StateGraph(MessagesState)
            builder.add_node("model", node)
            builder.add_edge(START, "model")
            app = builder.compile(checkpointer=saver)
            config: Any = {"configurable": {"thread_id": "1"}}
            for turn in range(turns):
                app.invoke({"messages": [HumanMessage(f"{turn}: {QUESTION}")]}, config)
            saver.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return path.stat().st_size


def show_threads(model: Any) -> str:
    """A table of thread sizes, and its figures as text."""
    pool = instant_pool()
    chat = ChatXRouter(pool, policy="fixed:small")
    sizes = {
        "a model in a node": thread_bytes(lambda s: {"messages": [model.invoke(s["messages"])]}),
        "XRouterNode, one turn": thread_bytes(XRouterNode(pool, policy="fixed:small")),
        "ChatXRouter in a node": thread_bytes(lambda s: {"messages": [chat.invoke(s["messages"])]}),
        "XRouterNode, max_turns=2": thread_bytes(
            XRouterNode(pool, policy="fixed:small", max_turns=2)
        ),
    }
    plain = sizes["a model in a node"]
    rows = [[n, f"{size / 1024:.0f}", f"{size / plain:.2f}"] for n, size in sizes.items()]
    show("A thread of 30 questions in SQLite", ["node", "KiB", "ratio"], rows)
    return "; ".join(f"thread of {name} ×{ratio}" for name, _, ratio in rows)


async def _with_langsmith(url: str, models: dict[str, Any], runs: int) -> dict[str, list[float]]:
    from langsmith import Client, tracing_context

    client = Client(api_url=url, api_key="local")
    variants = {
        "(e) XRouterNode, LangSmith client": _of(
            app_around(XRouterNode(instant_pool(), policy="fixed:small"))
        ),
        "(b) hand-written, LangSmith client": _of(app_around(hand_written(models, "small"))),
    }
    with tracing_context(enabled=True, client=client, project_name="bench"):
        seconds = await measure(variants, runs)
    client.flush(timeout=30)
    client.cleanup()
    return seconds


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=500, help="measured requests per variant")
    parser.add_argument(
        "--only-threads", action="store_true", help="only what a checkpointer keeps: no times"
    )
    os.environ.pop("LANGSMITH_TRACING", None)
    options = parser.parse_args()
    if options.only_threads:
        append(show_threads(InstantChat()))
    else:
        asyncio.run(main(options.runs))
