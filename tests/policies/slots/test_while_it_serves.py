"""What goes wrong while a checkpoint serves: loading, passes that fail, forks, the end."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from tests.policies.slots.engines import hold, loaded
from tests.support.tiny_checkpoint import (
    pool,
    request,
)
from tests.support.tiny_model import write_tiny_base
from tests.support.waiting import comes_about
from xrouter_lg import XRouterNode
from xrouter_lg.checkpoints.manifest import CheckpointError
from xrouter_lg.errors import PolicyError
from xrouter_lg.policies.slots import policy as module
from xrouter_lg.policies.slots import torch_engine as engine_module
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.policies.slots.torch_engine import Engine

pytestmark = pytest.mark.train
ROOT = Path(__file__).resolve().parents[3]


async def test_loading_leaves_the_event_loop_free(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    class SlowEngine(Engine):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            assert go_on.wait(30)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(module, "Engine", SlowEngine)
    waiting = [asyncio.create_task(policy.propose(request("hi"), pool().cards)) for _ in range(100)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()
    go_on.set()

    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(not isinstance(one, BaseException) for one in found[1:])


async def test_a_request_that_gave_up_costs_no_pass(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(policy.warm_up)
    engine = loaded(policy)
    go_on, sizes = hold(engine, monkeypatch)
    tasks = [asyncio.create_task(policy.propose(request("q0"), pool().cards))]
    await comes_about(lambda: sizes == [1])
    for i in range(1, 6):
        tasks.append(asyncio.create_task(policy.propose(request(f"q{i}"), pool().cards)))
        await comes_about(lambda waiting=i: engine._queue.qsize() == waiting)
    for task in tasks[2:5]:
        task.cancel()
    await asyncio.wait(tasks[2:5])
    go_on.set()

    found = await asyncio.gather(*tasks, return_exceptions=True)

    cancelled = [isinstance(one, asyncio.CancelledError) for one in found]
    assert cancelled == [False, False, True, True, True, False]
    assert sizes == [1, 2]


async def test_a_full_queue_costs_a_fallback_not_the_request(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(policy.warm_up)
    monkeypatch.setattr(engine_module, "MAX_QUEUED", 3)
    go_on, _ = hold(loaded(policy), monkeypatch)
    node = XRouterNode(pool(), policy=policy)
    builder = StateGraph(MessagesState)
    builder.add_node("model", node)
    builder.add_edge(START, "model")
    graph = builder.compile()

    tasks = [
        asyncio.create_task(graph.ainvoke({"messages": [HumanMessage(f"hello {i}")]}))
        for i in range(12)
    ]
    while not any(task.done() for task in tasks):
        await asyncio.sleep(0.01)
    go_on.set()
    states = await asyncio.gather(*tasks)

    decisions = [s["messages"][-1].response_metadata["xrouter"]["decisions"][0] for s in states]
    errors = [decision["policy_error"] for decision in decisions]
    refused = [error for error in errors if error is not None]
    assert 0 < len(refused) < 12
    assert all("3 requests wait for the router model already" in error for error in refused)


async def test_a_pass_that_fails_costs_its_own_requests_only(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(policy.warm_up)
    engine = loaded(policy)
    real, calls = engine._pass, list[int]()

    def once(at: int, questions: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of memory")
        return real(at, questions)

    monkeypatch.setattr(engine, "_pass", once)
    with pytest.raises(RuntimeError, match="out of memory"):
        await policy.propose(request("one"), pool().cards)
    assert (await policy.propose(request("two"), pool().cards)).quality


async def test_what_can_not_be_mended_is_not_tried_again(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_tiny_base(tmp_path / "other", layers=4)
    policy = CheckpointPolicy(adapter, base=other)
    for _ in range(2):
        with pytest.raises(CheckpointError, match="weights differ"):
            await policy.propose(request("hi"), pool().cards)
    before = policy._loading
    with pytest.raises(CheckpointError):
        await policy.propose(request("hi"), pool().cards)
    assert policy._loading is before


async def test_a_passing_trouble_is_tried_again(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def flaky(*args: Any, **kwargs: Any) -> Engine:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("disk is busy")
        return Engine(*args, **kwargs)

    monkeypatch.setattr(module, "Engine", flaky)
    with pytest.raises(OSError, match="disk is busy"):
        await policy.propose(request("hi"), pool().cards)
    assert (await policy.propose(request("hi"), pool().cards)).quality


async def test_closing_answers_who_waits_and_a_later_request_loads_again(
    policy: CheckpointPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(policy.warm_up)
    engine = loaded(policy)
    go_on, sizes = hold(engine, monkeypatch)
    tasks = [asyncio.create_task(policy.propose(request("hi"), pool().cards)) for _ in range(3)]
    await comes_about(lambda: sum(sizes) + engine._queue.qsize() == 3)
    closing = asyncio.create_task(asyncio.to_thread(policy.close))
    await asyncio.sleep(0.02)
    go_on.set()
    await closing
    assert all(proposal.quality for proposal in await asyncio.gather(*tasks))
    with pytest.raises(PolicyError, match="closed"):
        engine.submit([1], (0,))
    assert (await policy.propose(request("hi"), pool().cards)).quality


def test_a_policy_that_nobody_holds_frees_its_model(adapter: Path, base_folder: Path) -> None:
    policy = CheckpointPolicy(adapter, base=base_folder)
    policy.warm_up()
    thread = loaded(policy)._thread
    del policy
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


PROGRAM = """
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.support.tiny_checkpoint import pool, request
from xrouter_lg.policies.slots.policy import CheckpointPolicy

policy = CheckpointPolicy({adapter!r}, base={base!r})

def ask():
    return asyncio.run(policy.propose(request("What is 17 * 23?"), pool().cards)).quality
"""


def run(program: str, adapter: Path, base_folder: Path) -> subprocess.CompletedProcess[str]:
    head = PROGRAM.format(root=str(ROOT), adapter=str(adapter), base=str(base_folder))
    return subprocess.run(
        [sys.executable, "-c", head + program],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_decides_as_its_parent(adapter: Path, base_folder: Path) -> None:
    done = run(
        """
before = ask()
child = os.fork()
if child == 0:
    same = all(abs(before[name] - value) < 1e-5 for name, value in ask().items())
    os._exit(0 if same else 7)
_, status = os.waitpid(child, 0)
assert ask() == before
print("child", os.waitstatus_to_exitcode(status))
""",
        adapter,
        base_folder,
    )
    assert done.stdout.strip() == "child 0", done.stderr


def test_a_process_may_end_while_a_policy_is_loaded_or_loading(
    adapter: Path, base_folder: Path
) -> None:
    for program in ("ask()", "policy._engine()"):
        done = run(program, adapter, base_folder)
        assert done.returncode == 0, done.stderr
