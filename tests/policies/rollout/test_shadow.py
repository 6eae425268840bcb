"""A shadow proposes beside the policy that decides: recorded, paid apart, switched on by a text."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.policies.rollout.shadows import WAIT_S, beside, checkpoints, comparable, likes, shadow_of
from tests.support.apps import (
    PRICES,
    Says,
    app,
    ask,
    calls,
    card,
    options,
    pool,
    prefers,
    record,
    true_cost,
    usd,
)
from xrouter_lg import (
    Action,
    PromptedPolicy,
    Proposal,
    Router,
    XRouterNode,
)
from xrouter_lg.checkpoints.aliases import promote
from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.policies import following
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.policies.rollout.shadow import ShadowPolicy
from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.testing import (
    FakeOpenAIServer,
    FaultPlan,
    always,
    hang,
)
from xrouter_lg.types import Answer, RouteRequest

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
