"""A request that is killed half-way goes on where it was, and pays nothing twice."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from tests.support.apps import Graph, Says, answer, app, ask, calls, card, pool, record
from tests.support.waiting import comes_about, wait_until
from xrouter_lg import (
    Action,
    ModelPool,
    Proposal,
    Router,
    XRouterNode,
    add_router,
    build_router_graph,
)
from xrouter_lg.errors import AllCandidatesFailedError, NoCandidateError
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan, first, hang, server_error

THREAD: Any = {"configurable": {"thread_id": "t"}}
LARGE = "large says many more words than the others do"


def as_node(router: Router, saver: Any) -> Graph:
    router.max_turns = 2  # a node of one turn is kept as one step
    return app(XRouterNode(router), saver)


def as_graph(router: Router, saver: Any) -> Graph:
    return build_router_graph(router).compile(checkpointer=saver)


def as_steps(router: Router, saver: Any) -> Graph:
    builder = StateGraph(MessagesState)
    builder.add_edge(START, add_router(builder, router, then=END))
    return builder.compile(checkpointer=saver)


SURFACES = pytest.mark.parametrize(
    "build", [as_node, as_graph, as_steps], ids=["XRouterNode", "build_router_graph", "add_router"]
)
Build = Callable[[Router, Any], Graph]


@pytest.fixture(params=["memory", "sqlite"])
async def saver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    if request.param == "memory":
        yield InMemorySaver()
        return
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "c.db")) as sqlite:
        yield sqlite


async def is_kept(saver: Any, text: str) -> bool:
    """Whether an answer is written to the checkpoint, as what a node has given so far."""
    return any([text in str(kept.pending_writes) async for kept in saver.alist(THREAD)])


async def killed_after_large(
    fake: FakeOpenAIServer, build: Build, saver: Any, *, thread: Any = None
) -> Router:
    """A fan-out to large and small; large has answered, small hangs, the request is cancelled."""
    fake.faults = FaultPlan({"small": first(1, hang())})
    router = Router(pool(fake, "small", "large"), calls("large", "small"))
    task = asyncio.create_task(build(router, saver).ainvoke(ask(), thread or THREAD))
    await comes_about(lambda: len(fake.requests) == 2)
    while not await is_kept(saver, LARGE):
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return router


@SURFACES
async def test_a_call_that_had_finished_is_not_made_again(
    fake: FakeOpenAIServer, saver: Any, build: Build
) -> None:
    router = await killed_after_large(fake, build, saver)
    await build(router, saver).ainvoke(None, THREAD)
    assert fake.calls == {"large": 1, "small": 2}


@SURFACES
async def test_the_resumed_request_gives_the_answer(
    fake: FakeOpenAIServer, saver: Any, build: Build
) -> None:
    router = await killed_after_large(fake, build, saver)
    state = await build(router, saver).ainvoke(None, THREAD)
    assert [m.content for m in state["messages"]] == ["What is the capital of France?", LARGE]


@SURFACES
async def test_the_ledger_of_a_resumed_request_has_each_call_once(
    fake: FakeOpenAIServer, saver: Any, build: Build
) -> None:
    router = await killed_after_large(fake, build, saver)
    found = record(await build(router, saver).ainvoke(None, THREAD))
    assert sorted(charge["card"] for charge in found["charges"]) == ["large", "small"]


@SURFACES
async def test_another_process_can_resume(fake: FakeOpenAIServer, saver: Any, build: Build) -> None:
    await killed_after_large(fake, build, saver)
    other = Router(pool(fake, "small", "large"), calls("large", "small"))  # nothing in memory
    await build(other, saver).ainvoke(None, THREAD)
    assert fake.calls == {"large": 1, "small": 2}


@SURFACES
async def test_the_policy_is_not_asked_again_on_resuming(
    fake: FakeOpenAIServer, saver: Any, build: Build
) -> None:
    router = await killed_after_large(fake, build, saver)
    await build(router, saver).ainvoke(None, THREAD)
    policy = router.policy
    assert isinstance(policy, Says)
    assert len(policy.asked) == 1


@SURFACES
async def test_a_new_question_after_a_kill_does_not_mix_with_the_old_one(
    fake: FakeOpenAIServer, saver: Any, build: Build
) -> None:
    router = await killed_after_large(fake, build, saver)
    fake.add_model(FakeModel(name="large", reply="a new answer"))
    state = await build(router, saver).ainvoke(ask("Something new?"), THREAD)
    found = record(state)
    assert answer(state).content == "a new answer"
    assert len(found["charges"]) == 2
    assert found["turns"] == 1


@SURFACES
async def test_a_question_that_is_edited_after_a_kill_does_not_get_the_old_answer(
    fake: FakeOpenAIServer, saver: Any, build: Build
) -> None:
    fake.faults = FaultPlan({"small": first(1, hang())})
    graph = build(Router(pool(fake), calls("large", "small")), saver)
    first_try = {"messages": [HumanMessage("old", id="q")]}
    task = asyncio.create_task(graph.ainvoke(first_try, THREAD))  # type: ignore[arg-type]
    await comes_about(lambda: len(fake.requests) == 2)
    while not await is_kept(saver, LARGE):
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    fake.add_model(FakeModel(name="large", reply="to the new one"))
    edited = {"messages": [HumanMessage("new", id="q")]}
    state = await graph.ainvoke(edited, THREAD)  # type: ignore[arg-type]
    assert answer(state).content == "to the new one"
    assert record(state)["turns"] == 1


@SURFACES
async def test_private_state_does_not_pile_up_over_many_requests(
    fake: FakeOpenAIServer, saver: Any, build: Build
) -> None:
    def propose(request: Any, candidates: Any) -> Proposal:
        action = Action("select", call_id="c1") if request.answers else Action("call", card="small")
        return Proposal({c.name: 0.5 for c in candidates}, (action,))

    router = Router(pool(fake), Says(propose, orchestrates=True), max_turns=3)
    graph = build(router, saver)
    for i in range(8):
        state = await graph.ainvoke(ask(f"question {i}"), THREAD)
    assert len(record(state)["charges"]) == 1
    values = (await graph.aget_state(THREAD)).values
    assert len(values["messages"]) == 16
    private = [values.get(k) for k in ("xrouter_turns", "xrouter_results", "router_messages")]
    assert not any(private)


@SURFACES
async def test_threads_do_not_see_each_other(
    fake: FakeOpenAIServer, saver: Any, build: Build
) -> None:
    router = await killed_after_large(fake, build, saver)
    other = {"configurable": {"thread_id": "other"}}
    state = await build(router, saver).ainvoke(ask("Hi"), other)  # type: ignore[arg-type]
    assert len(state["messages"]) == 2
    assert len(record(state)["charges"]) == 2


@SURFACES
async def test_a_request_that_failed_for_good_can_be_asked_again(
    fake: FakeOpenAIServer, saver: Any, build: Build
) -> None:
    fake.faults = FaultPlan(default=server_error())
    graph = build(Router(pool(fake)), saver)
    with pytest.raises(AllCandidatesFailedError):
        await graph.ainvoke(ask(), THREAD)
    fake.faults = FaultPlan()
    found = record(await graph.ainvoke(ask("again"), THREAD))
    assert (found["route"], len(found["charges"]), found["fallbacks"]) == ("small", 1, [])


@SURFACES
async def test_a_kill_between_two_turns_keeps_the_first_turns_answers(
    fake: FakeOpenAIServer, saver: Any, build: Build
) -> None:
    second = asyncio.Event()

    def propose(request: Any, candidates: Any) -> Any:
        if not request.answers:
            return Proposal({c.name: 0.5 for c in candidates}, (Action("call", card="large"),))

        async def think() -> Proposal:
            if not second.is_set():
                second.set()
                await asyncio.sleep(60)
            chosen = (Action("select", call_id="c1"),)
            return Proposal({c.name: 0.5 for c in candidates}, chosen)

        return think()

    router = Router(pool(fake), Says(propose, orchestrates=True), max_turns=2)
    task = asyncio.create_task(build(router, saver).ainvoke(ask(), THREAD))
    await second.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    state = await build(router, saver).ainvoke(None, THREAD)
    assert answer(state).content == LARGE
    assert fake.calls == {"large": 1}


def test_a_sync_app_resumes_too(fake: FakeOpenAIServer, tmp_path: Path) -> None:
    """The call that had finished is kept when the other one's thread is interrupted."""

    class Stop(BaseException):
        pass

    fail = [True]

    class Node(XRouterNode):
        pass

    with SqliteSaver.from_conn_string(str(tmp_path / "c.db")) as saver:
        router = Router(pool(fake), calls("large", "small"), max_turns=2)
        original = router.workers.call

        async def call(card: Any, *args: Any, **kwargs: Any) -> Any:
            if card.name == "small" and fail:
                await asyncio.sleep(0.3)
                raise Stop
            return await original(card, *args, **kwargs)

        router.workers.call = call  # type: ignore[method-assign]
        graph = app(Node(router), saver)
        with pytest.raises(Stop):
            graph.invoke(ask(), THREAD)
        fail.clear()
        state = graph.invoke(None, THREAD)
        assert answer(state).content == LARGE
        assert fake.calls == {"large": 1, "small": 1}


async def test_a_card_that_left_the_pool_meanwhile_is_named_in_the_error(
    fake: FakeOpenAIServer,
) -> None:
    """LangGraph passes over a call to a node that is gone; the question is no answer."""
    saver = InMemorySaver()
    await killed_after_large(fake, as_node, saver)
    other = Router(pool(fake, "medium"))
    with pytest.raises(NoCandidateError, match="left the pool while the request was suspended"):
        await as_node(other, saver).ainvoke(None, THREAD)


async def test_a_card_that_left_the_pool_while_other_calls_stayed_is_no_obstacle(
    fake: FakeOpenAIServer,
) -> None:
    saver = InMemorySaver()
    await killed_after_large(fake, as_node, saver)
    other = Router(pool(fake, "large", "medium"))
    state = await as_node(other, saver).ainvoke(None, THREAD)
    assert answer(state).content == LARGE


SCRIPT = """
import sys
from langgraph.checkpoint.sqlite import SqliteSaver
from tests.support.apps import app, ask, calls
from xrouter_lg import ModelCard, ModelPool, Router, XRouterNode, build_router_graph

url, database, surface, mode = sys.argv[1:]
price = {"input": 1, "output": 2}
cards = [ModelCard(name=n, model=n, base_url=url, price=price) for n in ("small", "large")]
router = Router(ModelPool(cards), calls("large", "small"), max_turns=2)
config = {"configurable": {"thread_id": "t"}}
with SqliteSaver.from_conn_string(database) as saver:
    if surface == "node":
        graph = app(XRouterNode(router), saver)
    else:
        graph = build_router_graph(router).compile(checkpointer=saver)
    state = graph.invoke(ask() if mode == "start" else None, config)
    message = state["messages"][-1]
    print(message.content)
    print(*sorted(c["card"] for c in message.response_metadata["xrouter"]["charges"]))
"""


@pytest.mark.parametrize("surface", ["node", "graph"])
def test_a_process_killed_by_sigkill_is_taken_over_by_another(
    fake: FakeOpenAIServer, tmp_path: Path, surface: str
) -> None:
    fake.faults = FaultPlan({"small": first(1, hang())})
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), fake.base_url, str(tmp_path / "c.db"), surface]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([*command, "start"], env=environment)
    kept = "SELECT count(*) FROM writes WHERE instr(value, ?)"

    def is_written() -> bool:
        assert process.poll() is None, "the process ended early"
        if len(fake.requests) < 2:
            return False
        with closing(sqlite3.connect(tmp_path / "c.db")) as database:
            return database.execute(kept, (LARGE.encode(),)).fetchone()[0] > 0

    wait_until(is_written)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(
        [*command, "resume"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [LARGE, "large small"]
    assert fake.calls == {"large": 1, "small": 2}


async def test_the_users_own_state_is_kept_beside_the_routers(
    fake: FakeOpenAIServer, saver: Any
) -> None:
    graph = app(XRouterNode(pool(fake)), saver)
    await graph.ainvoke(ask("one"), THREAD)
    state = await graph.ainvoke({"messages": [HumanMessage("two")]}, THREAD)
    assert [m.type for m in state["messages"]] == ["human", "ai", "human", "ai"]


async def test_the_record_survives_the_checkpointer(fake: FakeOpenAIServer, saver: Any) -> None:
    graph = app(XRouterNode(ModelPool([card(fake, "small")])), saver)
    state = await graph.ainvoke(ask(), THREAD)
    again = (await graph.aget_state(THREAD)).values
    assert record(again) == record(state)


def test_a_node_of_one_turn_is_one_step_of_the_apps(fake: FakeOpenAIServer) -> None:
    saver = InMemorySaver()
    graph = app(XRouterNode(pool(fake), policy="cheapest"), saver)
    for _ in range(3):
        graph.invoke(ask(), THREAD)
    kept = [saved.config["configurable"]["checkpoint_ns"] for saved in saver.list(THREAD)]
    assert set(kept) == {""}
    assert len(kept) == 3 * 3  # what LangGraph keeps of any node: input, start, answer
