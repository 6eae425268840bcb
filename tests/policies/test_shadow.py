"""A shadow proposes beside the policy that decides: recorded, paid apart, and never felt."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables.config import ensure_config
from langgraph.checkpoint.memory import InMemorySaver

from tests.support.apps import (
    PRICES,
    Says,
    answer,
    app,
    ask,
    calls,
    card,
    options,
    pool,
    prefers,
    record,
    scripted,
    true_cost,
    usd,
)
from xrouter_lg import (
    Action,
    ModelPool,
    PromptedPolicy,
    Proposal,
    Recorder,
    Router,
    XRouterNode,
)
from xrouter_lg.checkpoints.aliases import promote
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, CardStats, LanguageModel
from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.policies import following
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.policies.rollout import shadow_runs
from xrouter_lg.policies.rollout.shadow import ShadowPolicy
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.testing import (
    FakeOpenAIServer,
    FaultPlan,
    ScriptedChatModel,
    always,
    first,
    hang,
)
from xrouter_lg.types import Answer, RouteRequest

WAIT_S = 60.0
"""Where the test is about what is recorded: until the shadow is there, however slow the machine."""


def beside(propose: Callable[..., Any], version: str = "shadow") -> Says:
    says = Says(propose)
    says.version = version  # type: ignore[misc]
    return says


def likes(name: str) -> Says:
    return beside(lambda _request, cards: Proposal({c.name: float(c.name == name) for c in cards}))


def shadow_of(state: Any, turn: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = record(state)["decisions"][turn]["shadow"]
    return found


def comparable(state: Any) -> dict[str, Any]:
    """A record without what differs between two runs of one request."""
    found = dict(record(state))
    for name in ("latency_s", "started_at", "trace_id", "run_id", "shadow_cost_usd"):
        found.pop(name)
    found["decisions"] = [{**turn, "shadow": None} for turn in found["decisions"]]
    found["charges"] = [{**charge, "latency_s": 0} for charge in found["charges"]]
    return found


# --- what is recorded


async def test_the_shadows_proposal_is_recorded_and_not_obeyed(fake: FakeOpenAIServer) -> None:
    policy = ShadowPolicy(prefers("small"), likes("large"), wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask())
    assert record(state)["route"] == "small"
    found = shadow_of(state)
    assert (found["status"], found["route"], found["policy_version"]) == (
        "proposed",
        "large",
        "shadow",
    )
    assert found["scores"] == {"small": 0.0, "large": 1.0}
    assert found["estimates_usd"]["large"] > found["estimates_usd"]["small"] > 0
    assert [line.model for line in fake.bill] == ["small"]


def test_in_a_sync_graph_too(fake: FakeOpenAIServer) -> None:
    policy = ShadowPolicy(prefers("small"), likes("large"), wait_s=WAIT_S)
    state = app(XRouterNode(pool(fake), policy=policy)).invoke(ask())
    assert (record(state)["route"], shadow_of(state)["route"]) == ("small", "large")


async def test_every_turn_has_its_shadow(fake: FakeOpenAIServer) -> None:
    def main(request: RouteRequest, _cards: Any) -> Proposal:
        chances = {"small": 0.5, "large": 0.5}
        if request.turn == 1:
            return Proposal(chances, actions=(Action("call", card="small"),))
        return Proposal(chances, actions=(Action("select", call_id=request.answers[0].call_id),))

    seen: list[tuple[int, tuple[Answer, ...]]] = []

    def shadow(request: RouteRequest, _cards: Any) -> Proposal:
        seen.append((request.turn, request.answers))
        return Proposal({"large": 1.0})

    policy = ShadowPolicy(Says(main, orchestrates=True), beside(shadow), wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy, max_turns=2)).ainvoke(ask())
    assert [shadow_of(state, turn)["route"] for turn in (0, 1)] == ["large", "large"]
    assert [turn for turn, _ in seen] == [1, 2]
    assert [a.card for a in seen[1][1]] == ["small"]


async def test_a_main_policy_that_fails_is_shadowed_all_the_same(fake: FakeOpenAIServer) -> None:
    def broken(_request: Any, _cards: Any) -> Proposal:
        raise RuntimeError("boom")

    policy = ShadowPolicy(Says(broken), likes("large"), wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask())
    assert record(state)["fallbacks"][0]["error"] == "policy"
    assert shadow_of(state)["route"] == "large"


async def test_a_main_policy_that_times_out_is_shadowed_all_the_same(
    fake: FakeOpenAIServer,
) -> None:
    async def never(_request: Any, _cards: Any) -> Proposal:
        await asyncio.Event().wait()
        raise AssertionError

    main = Says(never, timeout_s=0.05)
    policy = ShadowPolicy(main, likes("large"), wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask())
    assert "no proposal within 0.05 s" in record(state)["fallbacks"][0]["detail"]
    assert shadow_of(state)["route"] == "large"


async def test_the_same_version_is_not_asked_twice(fake: FakeOpenAIServer) -> None:
    twin = prefers("large")
    policy = ShadowPolicy(prefers("small"), twin, wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask())
    assert shadow_of(state) is None
    assert twin.asked == []
    assert record(state)["shadow_cost_usd"] == "0"


async def test_a_share_of_the_threads_is_shadowed(fake: FakeOpenAIServer) -> None:
    shadow = likes("large")
    policy = ShadowPolicy(prefers("small"), shadow, share=0.5, wait_s=WAIT_S)
    graph = app(XRouterNode(pool(fake), policy=policy))
    sides = []
    for number in range(12):
        config = options(thread_id=f"t{number}")
        twice = [shadow_of(await graph.ainvoke(ask(), config)) is None for _ in range(2)]
        assert twice[0] == twice[1]
        sides.append(twice[0])
    assert set(sides) == {True, False}


# --- what the request never feels


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


# --- what it costs


async def test_the_shadows_bill_is_its_own_and_every_token_of_it_is_counted(
    fake: FakeOpenAIServer,
) -> None:
    guide = PromptedPolicy(card(fake, "guide"))
    policy = ShadowPolicy(prefers("small"), guide, wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask())
    found = record(state)
    lines = {line.model: line for line in fake.bill}
    paid = Decimal(shadow_of(state)["cost_usd"])
    assert paid == usd(lines["guide"].usage, PRICES["guide"]) > 0
    assert found["shadow_cost_usd"] == shadow_of(state)["cost_usd"]
    assert Decimal(found["cost_usd"]) == usd(lines["small"].usage, PRICES["small"])
    assert found["router_cost_usd"] == "0"
    assert Decimal(found["cost_usd"]) + paid == true_cost(fake)
    assert {c["kind"] for c in found["charges"]} == {"worker"}
    assert {c["kind"] for c in shadow_of(state)["charges"]} == {"shadow"}


async def test_a_budget_holds_for_the_request_and_not_for_its_shadow(
    fake: FakeOpenAIServer,
) -> None:
    guide = PromptedPolicy(card(fake, "guide"))
    policy = ShadowPolicy(prefers("small"), guide, wait_s=WAIT_S)
    alone = app(XRouterNode(pool(fake), policy=prefers("small")))
    shadowed = app(XRouterNode(pool(fake), policy=policy))
    limit = options(max_cost_usd="0.0005")
    one, other = await alone.ainvoke(ask(), limit), await shadowed.ainvoke(ask(), limit)
    assert comparable(one) == comparable(other)


async def test_a_shadow_that_is_cut_off_costs_nobody_knows_what(fake: FakeOpenAIServer) -> None:
    fake.faults = FaultPlan({"guide": always(hang())})
    guide = PromptedPolicy(card(fake, "guide"))
    policy = ShadowPolicy(prefers("small"), guide, deadline_s=0.2, wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask())
    found = shadow_of(state)
    assert found["status"] == "timeout"
    assert (found["cost_usd"], record(state)["shadow_cost_usd"]) == (None, None)
    assert [charge["cost_usd"] for charge in found["charges"]] == [None]
    assert record(state)["cost_usd"] is not None


# --- how it is switched on


def test_policies_may_be_named(fake: FakeOpenAIServer) -> None:
    built = Router(pool(fake), ShadowPolicy("cheapest", "fixed:large")).policy
    assert isinstance(built, ShadowPolicy)
    assert (built.name, built.shadow.name) == ("cheapest", "fixed")  # type: ignore[union-attr]


def test_a_text_names_both(fake: FakeOpenAIServer) -> None:
    built = resolve_policy("shadow:mix:small=0.5,large=0.5,fixed:large", pool(fake))
    assert isinstance(built, ShadowPolicy)
    assert (built.name, built.shadow.name) == ("mix", "fixed")  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["shadow:cheapest", "shadow:,cheapest", "shadow:cheapest,"])
def test_a_text_with_one_policy_is_refused(text: str, fake: FakeOpenAIServer) -> None:
    with pytest.raises(PolicyConfigError, match="needs two policies"):
        resolve_policy(text, pool(fake))


@pytest.mark.parametrize(
    "wrong", [{"share": 2}, {"deadline_s": 0}, {"wait_s": -1}, {"deadline_s": "soon"}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(PolicyConfigError, match=next(iter(wrong))):
        ShadowPolicy("cheapest", "random", **wrong)


def checkpoints(root: Path) -> None:
    """Two checkpoints without a model, behind the aliases production and candidate."""
    for name in ("one", "two"):
        manifest = Manifest(
            kind="slots",
            language_model=LanguageModel(BaseIdentity("tiny", "0" * 64, "1" * 64, 3, 32), "merged"),
            cards=(CardStats("large", "large one", 1.0, 0.0, 100.0, 1e-3),),
            c_ref_usd=1e-3,
            best_fixed="large",
        )

        def weights(folder: Path, content: str = name) -> None:
            folder.joinpath("model.safetensors").write_bytes(content.encode())

        write_checkpoint(root / name, manifest, weights)
    promote(root / "one", root=root, force="first")
    promote(root / "two", root=root, alias="candidate")


async def test_candidate_beside_production_is_one_line_and_follows_both(
    fake: FakeOpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "_LOOK_EVERY_S", 0.0)
    monkeypatch.setattr(CheckpointPolicy, "warm_up", lambda policy: None)  # no model in these
    checkpoints(tmp_path)
    built = resolve_policy(f"shadow:{tmp_path}/production,{tmp_path}/candidate", pool(fake))
    assert isinstance(built, ShadowPolicy)
    assert isinstance(built.main, following.FollowingPolicy)
    assert isinstance(built.shadow, following.FollowingPolicy)
    before = built.main.version, built.shadow.version
    assert before[0] != before[1]
    promote(tmp_path / "two", root=tmp_path, force="it won")
    built.main._look()
    assert built.main._loading is not None
    built.main._loading.join()
    assert (built.version, built.shadow.version) == (before[1], before[1])


async def test_calls_in_parallel_are_all_recorded(fake: FakeOpenAIServer) -> None:
    both = calls("small", "large")
    both.version = "both"  # type: ignore[misc]
    policy = ShadowPolicy(prefers("small"), both, wait_s=WAIT_S)
    state = await app(XRouterNode(pool(fake), policy=policy)).ainvoke(ask())
    assert shadow_of(state)["calls"] == [{"card": "small"}, {"card": "large"}]
