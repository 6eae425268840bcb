"""A policy that follows an alias: promotions and rollbacks while it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from tests.policies.slots.engines import QUESTIONS, hold, loaded
from tests.support import tiny_checkpoint
from tests.support.tiny_checkpoint import (
    pool,
    request,
)
from tests.support.waiting import comes_about
from xrouter_lg import XRouterNode
from xrouter_lg.checkpoints.aliases import promote, rollback
from xrouter_lg.policies import following
from xrouter_lg.policies.following import FollowingPolicy
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.policies.slots.policy import CheckpointPolicy

pytestmark = pytest.mark.train


@pytest.fixture
def aliased(
    base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, FollowingPolicy]]:
    """Two checkpoints, the first promoted, and the policy that follows the alias."""
    monkeypatch.setenv("XROUTER_BASE", str(base_folder))
    monkeypatch.setattr(following, "_LOOK_EVERY_S", 0.0)
    root = tmp_path / "checkpoints"
    for name, seed in (("one", 1), ("two", 2)):
        tiny_checkpoint.write(root / name, base_folder, seed=seed)
    promote(root / "one", root=root, force="first")
    policy = resolve_policy(str(root / "production"), pool())
    assert isinstance(policy, FollowingPolicy)
    yield root, policy
    policy.close()


async def moved(policy: FollowingPolicy, version: str) -> None:
    """Ask until a version answers; a look and a load lie in between."""
    while policy.current.version != version:
        await policy.propose(request("hi"), pool().cards)
        await asyncio.sleep(0.01)


async def test_a_running_policy_follows_a_promotion_and_a_rollback(
    aliased: tuple[Path, FollowingPolicy],
) -> None:
    root, policy = aliased
    first = policy.version
    one = await policy.propose(request(QUESTIONS[1]), pool().cards)
    assert promote(root / "two", root=root, force="better").to_version != first

    await moved(policy, CheckpointPolicy(root / "two").version)
    two = await policy.propose(request(QUESTIONS[1]), pool().cards)
    assert one.quality != pytest.approx(two.quality, abs=1e-3)

    rollback(root=root)
    await moved(policy, first)
    again = await policy.propose(request(QUESTIONS[1]), pool().cards)
    assert again.quality == pytest.approx(one.quality, abs=1e-4)


async def test_a_record_names_the_version_that_answered(
    aliased: tuple[Path, FollowingPolicy], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, policy = aliased
    policy.warm_up()
    first = policy.version
    current = policy.current
    assert isinstance(current, CheckpointPolicy)
    go_on, sizes = hold(loaded(current), monkeypatch)
    builder = StateGraph(MessagesState)
    builder.add_node("model", XRouterNode(pool(), policy=policy))
    builder.add_edge(START, "model")
    slow = asyncio.create_task(builder.compile().ainvoke({"messages": [HumanMessage("hello")]}))
    await comes_about(lambda: sizes == [1])
    # The alias moves on while the first request still waits for its answer.
    promote(root / "two", root=root, force="better")
    policy._look()
    while policy.current is current:
        await asyncio.sleep(0.01)
    go_on.set()

    state = await slow
    assert state["messages"][-1].response_metadata["xrouter"]["policy_version"] == first


async def test_a_checkpoint_that_can_not_be_loaded_leaves_the_old_one_serving(
    aliased: tuple[Path, FollowingPolicy], caplog: pytest.LogCaptureFixture
) -> None:
    root, policy = aliased
    first = policy.version
    promote(root / "two", root=root, force="better")
    (root / "two" / "adapter_model.safetensors").write_bytes(b"damaged")
    while "stays with version" not in caplog.text:
        assert (await policy.propose(request("hi"), pool().cards)).quality
        await asyncio.sleep(0.01)
    assert policy.version == first
