"""A share of the threads is decided by the candidate, and a thread never changes sides."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from tests.policies.rollout.shadows import checkpoints
from tests.support.apps import Says, app, ask, options, pool, prefers, record
from xrouter_lg import Action, ModelPool, Proposal, Router, XRouterNode
from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.policies.base import BasePolicy
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.policies.rollout.canary import CanaryPolicy, in_share
from xrouter_lg.policies.rollout.shadow import ShadowPolicy
from xrouter_lg.testing import FakeOpenAIServer
from xrouter_lg.types import RouteRequest


def request(thread: str | None = None, **changes: Any) -> RouteRequest:
    return RouteRequest(messages=[HumanMessage("hi")], thread_id=thread, **changes)


def canary(share: float = 0.3, **changes: Any) -> CanaryPolicy:
    return CanaryPolicy(
        prefers("small", "large"), prefers("large", "small"), share=share, **changes
    )


@pytest.mark.parametrize("share", [0.01, 0.05, 0.3, 0.5])
def test_the_share_is_exact_within_what_chance_allows(share: float) -> None:
    threads = [f"thread-{number}" for number in range(20_000)]
    hit = sum(canary(share).arm_of(request(thread)) == "candidate" for thread in threads)
    # Five standard deviations of a binomial: a wrong hash fails, chance does not.
    assert abs(hit - share * len(threads)) < 5 * sqrt(len(threads) * share * (1 - share))


def test_no_share_and_the_whole_share_leave_nobody_and_everybody() -> None:
    assert {canary(0.0).arm_of(request(str(n))) for n in range(500)} == {"main"}
    assert {canary(1.0).arm_of(request(str(n))) for n in range(500)} == {"candidate"}


def test_a_growing_share_only_adds_threads() -> None:
    threads = [str(number) for number in range(2000)]
    small = {t for t in threads if in_share(t, 0.05, "canary")}
    assert small < {t for t in threads if in_share(t, 0.2, "canary")}


def test_another_salt_draws_other_threads() -> None:
    threads = [str(number) for number in range(5000)]
    first, second = ({t for t in threads if in_share(t, 0.1, salt)} for salt in ("one", "two"))
    # Independent draws share one hundredth of the threads: 50, with a deviation of about 7.
    assert 15 < len(first & second) < 85


def test_another_process_gives_a_thread_the_same_side() -> None:
    code = (
        "from xrouter_lg.policies.rollout.canary import in_share\n"
        "print(''.join('01'[in_share(f't{n}', 0.4, 's')] for n in range(200)))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "".join("01"[in_share(f"t{n}", 0.4, "s")] for n in range(200))


async def test_a_thread_keeps_its_arm_and_the_record_says_which(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake), policy=canary()))
    for number in range(12):
        wanted = canary().arm_of(request(f"t{number}"))
        for _ in range(2):
            found = record(await graph.ainvoke(ask(), options(thread_id=f"t{number}")))
            share = 0.3 if wanted == "candidate" else 0.7
            assert found["arm"] == {
                "arm": wanted,
                "propensity": pytest.approx(share),
                "unit": "thread",
                "salt": "canary",
            }
            assert found["route"] == ("large" if wanted == "candidate" else "small")


def test_a_sync_graph_keeps_the_arm_too(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake), policy=canary(0.5)))
    for number in range(6):
        found = record(graph.invoke(ask(), options(thread_id=f"t{number}")))
        assert found["arm"]["arm"] == canary(0.5).arm_of(request(f"t{number}"))


async def test_without_a_thread_a_request_has_one_arm_on_all_its_turns(
    fake: FakeOpenAIServer,
) -> None:
    def two_turns(version: str) -> Says:
        def propose(asked: RouteRequest, _cards: Any) -> Proposal:
            chances = {"small": 0.5, "large": 0.5}
            if asked.turn == 1:
                return Proposal(chances, actions=(Action("call", card="small"),))
            select = Action("select", call_id=asked.answers[-1].call_id)
            return Proposal(chances, actions=(select,))

        says = Says(propose, orchestrates=True)
        says.version = version  # type: ignore[misc]
        return says

    arms = set()
    main, candidate = two_turns("m"), two_turns("c")
    graph = app(
        XRouterNode(pool(fake), policy=CanaryPolicy(main, candidate, share=0.5), max_turns=3)
    )
    for _ in range(16):
        before = len(main.asked), len(candidate.asked)
        found = record(await graph.ainvoke(ask()))
        assert found["arm"]["unit"] == "request"
        arms.add(found["arm"]["arm"])
        asked = len(main.asked) - before[0], len(candidate.asked) - before[1]
        assert sorted(asked) == [0, 2]
        assert found["policy_version"] == ("m" if asked[0] else "c")
    assert arms == {"main", "candidate"}


async def test_an_arm_that_fails_falls_back_and_stays_its_own_arm(fake: FakeOpenAIServer) -> None:
    def broken(_request: Any, _cards: Any) -> Proposal:
        raise RuntimeError("boom")

    both = CanaryPolicy(prefers("small"), Says(broken), share=1.0)
    found = record(await app(XRouterNode(pool(fake, default="large"), policy=both)).ainvoke(ask()))
    assert (found["route"], found["arm"]["arm"], found["policy"]) == ("large", "candidate", "says")
    assert found["fallbacks"][0]["error"] == "policy"


async def test_a_request_that_no_policy_is_asked_about_still_has_its_arm(
    fake: FakeOpenAIServer,
) -> None:
    graph = app(XRouterNode(pool(fake, "small"), policy=canary(1.0)))
    assert record(await graph.ainvoke(ask()))["arm"]["arm"] == "candidate"


async def test_a_canary_under_a_shadow_and_a_shadow_in_an_arm(fake: FakeOpenAIServer) -> None:
    beside = prefers("medium")
    beside.version = "s"  # type: ignore[misc]
    for policy in (
        ShadowPolicy(canary(1.0), beside, wait_s=30),
        CanaryPolicy("fixed:small", ShadowPolicy(prefers("large"), beside, wait_s=30), share=1.0),
    ):
        node = XRouterNode(pool(fake, "small", "medium", "large"), policy=policy)
        found = record(await app(node).ainvoke(ask()))
        assert (found["route"], found["arm"]["arm"]) == ("large", "candidate")
        assert found["decisions"][0]["shadow"]["route"] == "medium"


async def test_one_object_serves_many_requests_at_once(fake: FakeOpenAIServer) -> None:
    graph = app(XRouterNode(pool(fake), policy=canary(0.5)))
    states = await asyncio.gather(
        *(graph.ainvoke(ask(), options(thread_id=f"t{n}")) for n in range(24))
    )
    for number, state in enumerate(states):
        arm = canary(0.5).arm_of(request(f"t{number}"))
        assert record(state)["route"] == ("large" if arm == "candidate" else "small")


def test_policies_may_be_named(fake: FakeOpenAIServer) -> None:
    built = Router(pool(fake), CanaryPolicy("cheapest", "fixed:large", share=0.2)).policy
    assert isinstance(built, CanaryPolicy)
    assert (built.main.name, built.candidate.name) == ("cheapest", "fixed")  # type: ignore[union-attr]


def test_a_text_names_both_and_the_share(fake: FakeOpenAIServer) -> None:
    built = resolve_policy("canary:mix:small=0.5,large=0.5,fixed:large=0.25", pool(fake))
    assert isinstance(built, CanaryPolicy)
    assert (built.main.name, built.share) == ("mix", 0.25)  # type: ignore[union-attr]


def test_candidate_beside_production_is_one_line(fake: FakeOpenAIServer, tmp_path: Path) -> None:
    checkpoints(tmp_path)
    text = f"canary:{tmp_path}/production,{tmp_path}/candidate=0.1"
    built = resolve_policy(text, pool(fake))
    assert isinstance(built, CanaryPolicy)
    assert built.main.version != built.candidate.version  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("canary:cheapest", "needs two policies"),
        ("canary:cheapest,fixed:large", "needs two policies"),
        ("canary:cheapest,fixed:large=much", "needs two policies"),
        ("canary:cheapest,fixed:large=1.5", "from 0 to 1"),
        ("canary:cheapest,fixed:huge=0.5", "no card is named 'huge'"),
    ],
)
def test_a_bad_text_says_what_to_write(text: str, message: str, fake: FakeOpenAIServer) -> None:
    with pytest.raises(PolicyConfigError, match=message):
        resolve_policy(text, pool(fake))


@pytest.mark.parametrize("share", [-0.1, 1.1, True, "0.1", float("nan")])
def test_a_bad_share_is_refused(share: Any) -> None:
    with pytest.raises(PolicyConfigError, match="share"):
        canary(share)


async def test_names_that_nobody_resolved_are_refused_with_the_way_out() -> None:
    with pytest.raises(PolicyConfigError, match="give the whole to XRouterNode"):
        await CanaryPolicy("cheapest", "random").propose(request("t"), ())


def test_a_pool_is_all_that_resolving_needs(fake: FakeOpenAIServer) -> None:
    models: ModelPool = pool(fake)
    assert isinstance(resolve_policy(canary(), models), CanaryPolicy)


class Loads(BasePolicy):
    name = "loads"

    def __init__(self) -> None:
        self.said: list[str] = []

    async def propose(self, request: RouteRequest, candidates: Any) -> Proposal:
        raise NotImplementedError

    def warm_up(self) -> None:
        self.said.append("warm")

    def close(self) -> None:
        self.said.append("closed")


@pytest.mark.parametrize("pair", [CanaryPolicy, ShadowPolicy])
def test_both_policies_of_a_pair_are_warmed_up_and_closed(pair: Any) -> None:
    first, second = Loads(), Loads()
    both = pair(first, pair(second, prefers("large")))
    both.warm_up()
    both.close()
    assert first.said == second.said == ["warm", "closed"]
