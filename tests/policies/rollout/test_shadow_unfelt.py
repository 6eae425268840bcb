"""What a request never feels of its shadow: faults, slowness, cancelling, processes that end."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables.config import ensure_config
from langgraph.checkpoint.memory import InMemorySaver

from tests.policies.rollout.shadows import WAIT_S, beside, comparable, likes, shadow_of
from tests.support.apps import (
    Says,
    answer,
    app,
    ask,
    card,
    options,
    pool,
    prefers,
    record,
    scripted,
)
from xrouter_lg import (
    ModelPool,
    PromptedPolicy,
    Proposal,
    Recorder,
    XRouterNode,
)
from xrouter_lg.policies.rollout import shadow_runs
from xrouter_lg.policies.rollout.shadow import ShadowPolicy
from xrouter_lg.testing import (
    FakeOpenAIServer,
    FaultPlan,
    ScriptedChatModel,
    first,
    hang,
)
from xrouter_lg.types import RouteRequest


def _exits(_request: Any, _cards: Any) -> Proposal:
    raise SystemExit(3)


def _nonsense(_request: Any, _cards: Any) -> Any:
    return "large"


def _unknown(_request: Any, _cards: Any) -> Proposal:
    return Proposal({"huge": 1.0})


def _raises(_request: Any, _cards: Any) -> Proposal:
    raise RuntimeError("boom")


def _leaks(_request: Any, _cards: Any) -> Proposal:
    raise asyncio.CancelledError


BROKEN = {
    "raises": _raises,
    "exits": _exits,
    "returns a name": _nonsense,
    "names no candidate": _unknown,
    "leaks a cancellation": _leaks,
}


@pytest.mark.parametrize("kind", BROKEN)
async def test_a_broken_shadow_changes_nothing_but_its_own_entry(
    kind: str, fake: FakeOpenAIServer
) -> None:
    alone = await app(XRouterNode(pool(fake), policy=prefers("small"))).ainvoke(ask())
    policy = ShadowPolicy(prefers("small"), beside(BROKEN[kind]), wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask())
    assert comparable(state) == comparable(alone)
    assert shadow_of(state)["status"] == "failed"
    assert answer(state).content == answer(alone).content
    # And the thread that it broke in serves the next one.
    policy = ShadowPolicy(prefers("small"), likes("large"), wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask())
    assert shadow_of(state)["status"] == "proposed"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Closed until the test opens it, and at its end in any case."""
    event = threading.Event()
    yield event
    event.set()


@pytest.mark.parametrize("blocking", [False, True], ids=["waits", "blocks its thread"])
@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
def test_an_answer_does_not_wait_for_a_slow_shadow(
    blocking: bool, sync: bool, fake: FakeOpenAIServer, gate: threading.Event
) -> None:
    async def slow(_request: Any, _cards: Any) -> Proposal:
        while not (gate.wait(60) if blocking else gate.is_set()):
            await asyncio.sleep(0.005)
        return Proposal({"large": 1.0})

    graph = app(XRouterNode(pool(fake), policy=ShadowPolicy(prefers("small"), beside(slow))))
    # The gate is closed: if the request waited for its shadow, it would never come back.
    state = graph.invoke(ask()) if sync else asyncio.run(graph.ainvoke(ask()))
    assert not gate.is_set()
    assert record(state)["route"] == "small"
    assert shadow_of(state)["status"] == "late"
    assert shadow_of(state)["cost_usd"] is None  # a stranger may have paid for something


async def test_a_stream_goes_on_while_the_shadow_hangs(
    fake: FakeOpenAIServer, gate: threading.Event
) -> None:
    def hanging(_request: Any, _cards: Any) -> Proposal:
        gate.wait(60)
        return Proposal({"large": 1.0})

    node = XRouterNode(pool(fake), policy=ShadowPolicy(prefers("small"), beside(hanging)))
    parts = [str(m.text) async for m, _ in app(node).astream(ask(), stream_mode="messages")]
    assert not gate.is_set()
    assert "".join(parts) == "small says hello to you"


async def test_a_shadow_models_tokens_do_not_stream(fake: FakeOpenAIServer) -> None:
    guide = PromptedPolicy(card(fake, "guide"))
    node = XRouterNode(pool(fake), policy=ShadowPolicy(prefers("small"), guide, wait_s=WAIT_S))
    parts = [str(m.text) async for m, _ in app(node).astream(ask(), stream_mode="messages")]
    assert "guide" in [line.model for line in fake.bill]
    assert "".join(parts) == "small says hello to you"


async def test_what_a_strangers_shadow_runs_is_neither_streamed_nor_recorded(
    fake: FakeOpenAIServer, tmp_path: Path
) -> None:
    speaker = ScriptedChatModel(lambda _messages: "the shadow speaks")

    inherited: list[Any] = []

    async def asks_a_model(_request: Any, _cards: Any) -> Proposal:
        inherited.append(ensure_config().get("callbacks"))
        await speaker.ainvoke("whom to ask?")
        return Proposal({"large": 1.0})

    policy = ShadowPolicy(prefers("small"), beside(asks_a_model), wait_s=WAIT_S)
    with Recorder(tmp_path / "t.db") as recorder:
        node = XRouterNode(pool(fake), policy=policy, traces=recorder)
        parts = [str(m.text) async for m, _ in app(node).astream(ask(), stream_mode="messages")]
        recorder.flush(30)
        (row,) = recorder.store.routes()
        models = [r for r in recorder.store.runs(row.trace_id) if r["run_type"] == "llm"]
    assert len(speaker.calls) == 1
    assert inherited == [None]
    assert "".join(parts) == "small says hello to you"
    assert len(models) == 1


async def test_a_shadow_past_its_deadline_is_a_timeout(fake: FakeOpenAIServer) -> None:
    async def never(_request: Any, _cards: Any) -> Proposal:
        await asyncio.Event().wait()
        raise AssertionError

    policy = ShadowPolicy(prefers("small"), beside(never), deadline_s=0.05, wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask())
    assert (shadow_of(state)["status"], record(state)["route"]) == ("timeout", "small")


async def test_a_shadow_can_change_neither_messages_nor_charges(fake: FakeOpenAIServer) -> None:
    def meddles(request: RouteRequest, _cards: Any) -> Proposal:
        request.messages[0].content = "say something rude"
        request.attempt.notes["arm"] = "mine"
        list(request.messages).append(HumanMessage("and this"))
        return Proposal({"large": 1.0})

    question = HumanMessage("hi", id="q")
    policy = ShadowPolicy(prefers("small"), beside(meddles), wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke({"messages": [question]})
    assert question.content == "hi"
    assert state["messages"][0].content == "hi"
    assert record(state)["arm"] is None


async def test_a_cancelled_request_asks_no_shadow_and_leaves_none(
    fake: FakeOpenAIServer,
) -> None:
    asked = asyncio.Event()

    async def never(_request: Any, _cards: Any) -> Proposal:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    shadow = likes("large")
    node = XRouterNode(pool(fake), policy=ShadowPolicy(Says(never, timeout_s=60), shadow))
    task = asyncio.create_task(app(node).ainvoke(ask()))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert shadow.asked == []


async def test_too_many_at_once_are_skipped(
    fake: FakeOpenAIServer, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hanging(_request: Any, _cards: Any) -> Proposal:
        gate.wait(60)
        return Proposal({"large": 1.0})

    desk = shadow_runs._desk
    monkeypatch.setattr(shadow_runs, "MAX_UNDER_WAY", desk.under_way + 1)
    graph = app(XRouterNode(pool(fake), policy=ShadowPolicy(prefers("small"), beside(hanging))))
    first, second = await graph.ainvoke(ask()), await graph.ainvoke(ask())
    assert (shadow_of(first)["status"], shadow_of(second)["status"]) == ("late", "skipped")


async def test_a_request_resumed_by_another_process_has_lost_its_shadow(
    fake: FakeOpenAIServer,
) -> None:
    policy = ShadowPolicy(prefers("small"), likes("large"))
    node = XRouterNode(pool(fake), policy=policy, max_turns=2)  # one turn keeps no steps to resume
    saver = InMemorySaver()
    graph = app(node, saver)
    fake.faults = FaultPlan({"small": first(1, hang())})
    thread = options(thread_id="t")
    task = asyncio.create_task(graph.ainvoke(ask(), thread))
    while not fake.requests:
        await asyncio.sleep(0.01)
    while not any("shadow" in str(kept) for kept in saver.list(thread)):
        await asyncio.sleep(0.005)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    shadow_runs._desk.runs.clear()  # as a new process has it
    state = await graph.ainvoke(None, options(thread_id="t"))
    assert shadow_of(state)["status"] == "lost"
    assert record(state)["route"] == "small"


def test_a_process_ends_while_a_shadow_is_under_way() -> None:
    code = """
        import time
        from tests.support.apps import Says, app, ask, record, scripted
        from xrouter_lg import ModelPool, XRouterNode
        from xrouter_lg.policies.rollout.shadow import ShadowPolicy

        slow = Says(lambda request, cards: time.sleep(600))
        pool = ModelPool([scripted("small"), scripted("large")])
        node = XRouterNode(pool, policy=ShadowPolicy("fixed:small", slow, deadline_s=600))
        print(record(app(node).invoke(ask()))["decisions"][0]["shadow"]["status"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "late", "")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_a_loop_of_its_own() -> None:
    pool_of_two = ModelPool([scripted("small"), scripted("large")])
    policy = ShadowPolicy("fixed:small", likes("large"), wait_s=WAIT_S)
    graph = app(XRouterNode(pool_of_two, policy=policy))
    assert shadow_of(graph.invoke(ask()))["status"] == "proposed"
    child = os.fork()
    if child == 0:  # no assertion may escape here: pytest would go on twice
        found = shadow_of(graph.invoke(ask()))["status"] == "proposed"
        os._exit(0 if found else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
