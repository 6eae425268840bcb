"""Baselines, what may be written for a policy, and whether propensities tell the truth."""

from __future__ import annotations

import math
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from tests.support.apps import Says, calls, prefers, scripted
from xrouter_lg import ModelCard, ModelPool, Policy, PromptedPolicy, Proposal, Router, RouteRequest
from xrouter_lg.errors import ConfigurationError, InvalidProposalError, PolicyConfigError
from xrouter_lg.policies.base import by_price
from xrouter_lg.policies.baselines import (
    CheapestPolicy,
    FixedPolicy,
    RandomPolicy,
    StaticMixPolicy,
)
from xrouter_lg.policies.proposals import read_proposal
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.testing import ScriptedChatModel

CARDS = [scripted("large"), scripted("small"), scripted("medium")]
POOL = ModelPool(CARDS)
REQUEST = RouteRequest([HumanMessage("Why?")], prompt_tokens=500, default="large")


async def favourite(policy: Policy, cards: Any = CARDS, request: RouteRequest = REQUEST) -> str:
    proposal = await policy.propose(request, cards)
    read_proposal(proposal, cards)
    return max(proposal.probabilities, key=lambda name: proposal.probabilities[name])


async def test_fixed_takes_the_pools_default() -> None:
    assert await favourite(FixedPolicy()) == "large"


async def test_fixed_takes_the_card_it_names() -> None:
    assert await favourite(FixedPolicy("Medium")) == "medium"


async def test_fixed_takes_the_cheapest_where_its_card_can_not() -> None:
    assert await favourite(FixedPolicy("large"), CARDS[1:]) == "small"


async def test_cheapest_takes_the_lowest_expected_cost() -> None:
    assert await favourite(CheapestPolicy()) == "small"


async def test_cheapest_weighs_the_prompt_against_the_answer() -> None:
    reader = scripted("reader", price={"input": "0.1", "output": 100})
    writer = scripted("writer", price={"input": 10, "output": "0.1"})
    for tokens, expected in ((100, "writer"), (100_000, "reader")):
        request = RouteRequest([HumanMessage("?")], prompt_tokens=tokens)
        assert await favourite(CheapestPolicy(), [reader, writer], request) == expected


def test_an_unknown_price_counts_as_the_dearest() -> None:
    unknown = scripted("unknown", price=None)
    assert [c.name for c in by_price([unknown, *CARDS])] == ["small", "medium", "large", "unknown"]


async def test_mix_ignores_cards_that_can_not_take_the_request() -> None:
    mix = StaticMixPolicy({"small": 1, "large": 3}, seed=1)
    proposal = await mix.propose(REQUEST, CARDS[1:])
    assert proposal.probabilities == {"small": 1.0, "medium": 0.0}


async def test_mix_falls_to_the_cheapest_where_none_of_its_cards_can() -> None:
    assert await favourite(StaticMixPolicy({"gone": 1})) == "small"


@pytest.mark.parametrize("share", [0, -1, float("nan"), float("inf"), True])
def test_a_share_that_is_none_is_refused_by_name(share: Any) -> None:
    with pytest.raises(PolicyConfigError, match="'small'"):
        StaticMixPolicy({"small": share})


def test_an_empty_mix_is_refused() -> None:
    with pytest.raises(PolicyConfigError, match="at least one card"):
        StaticMixPolicy({})


def test_a_mixs_version_tells_its_shares() -> None:
    one, two = StaticMixPolicy({"a": 1, "b": 2}), StaticMixPolicy({"b": 2, "a": 1})
    assert one.version == two.version != StaticMixPolicy({"a": 2, "b": 2}).version


# Propensities: what is logged is what happens.

CHI_SQUARE_999 = {1: 10.83, 2: 13.82}
"""99.9 % quantiles by degrees of freedom; seeds are fixed, so a pass stays a pass."""


def chi_square(counts: Counter[str], expected: dict[str, float], draws: int) -> float:
    return sum((counts[k] - draws * p) ** 2 / (draws * p) for k, p in expected.items())


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (RandomPolicy(seed=3), {"small": 1 / 3, "medium": 1 / 3, "large": 1 / 3}),
        (
            StaticMixPolicy({"small": 6, "medium": 3, "large": 1}, seed=3),
            {"small": 0.6, "medium": 0.3, "large": 0.1},
        ),
    ],
    ids=["random", "mix"],
)
async def test_frequencies_of_a_drawing_policy_match_its_logged_propensities(
    policy: Policy, expected: dict[str, float]
) -> None:
    router = Router(POOL, policy)
    counts: Counter[str] = Counter()
    for _ in range(3000):
        decision = await router.decide(REQUEST, POOL)
        card = decision.calls[0].card
        counts[card] += 1
        assert decision.propensity == pytest.approx(expected[card])
    assert chi_square(counts, expected, 3000) < CHI_SQUARE_999[2]


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
async def test_frequencies_under_exploration_match_the_logged_propensities(rate: float) -> None:
    router = Router(POOL, prefers("medium", "small"), exploration=rate)
    router._random.seed(11)
    counts: Counter[str] = Counter()
    logged: dict[str, float] = {}
    for _ in range(3000):
        decision = await router.decide(REQUEST, POOL)
        card = decision.calls[0].card
        counts[card] += 1
        assert decision.propensity is not None
        logged[card] = decision.propensity
    assert sum(logged.values()) == pytest.approx(1.0)
    assert chi_square(counts, logged, 3000) < CHI_SQUARE_999[2]


async def test_an_explored_decision_says_so() -> None:
    router = Router(POOL, prefers("medium"), exploration=1.0)
    router._random.seed(1)
    decisions = [await router.decide(REQUEST, POOL) for _ in range(50)]
    for decision in decisions:
        explored = decision.calls[0].card != "medium"
        assert decision.explored is explored
        assert decision.reason.endswith("(explored)") is explored
    assert {decision.explored for decision in decisions} == {True, False}


async def test_without_exploration_a_favourite_has_propensity_one() -> None:
    decision = await Router(POOL, prefers("medium")).decide(REQUEST, POOL)
    assert (decision.calls[0].card, decision.propensity) == ("medium", 1.0)


async def test_the_order_of_failover_is_the_policys() -> None:
    decision = await Router(POOL, prefers("medium", "large")).decide(REQUEST, POOL)
    assert decision.order == ("medium", "large", "small")


# What may be written.


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("fixed", FixedPolicy),
        ("fixed:large", FixedPolicy),
        ("cheapest", CheapestPolicy),
        ("random", RandomPolicy),
        ("mix:small=0.7,large=0.3", StaticMixPolicy),
        ("prompted:small", PromptedPolicy),
    ],
)
def test_each_form_makes_its_policy(text: str, kind: type) -> None:
    assert isinstance(resolve_policy(text, POOL), kind)


@pytest.mark.parametrize("policy", [ScriptedChatModel(["x"]), CARDS[0]], ids=["model", "card"])
def test_a_chat_model_or_a_card_becomes_a_prompted_policy(policy: Any) -> None:
    assert isinstance(resolve_policy(policy, POOL), PromptedPolicy)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "''"),
        ("best", "'best' is not known"),
        ("fixed:huge", "no card is named 'huge'; cards: large, small, medium"),
        ("fixed:", "'fixed:' is not known"),
        ("prompted:huge", "'huge'"),
        ("mix:small", "'small' is no share"),
        ("mix:huge=1", "'huge'"),
        ("mix:small=lots", "'small=lots' is no share"),
        ("mix:small=-1", "share of -1.0"),
    ],
)
def test_a_policy_that_is_none_is_refused_with_what_was_written(text: str, what: str) -> None:
    with pytest.raises(PolicyConfigError, match=what):
        resolve_policy(text, POOL)


@pytest.mark.parametrize(
    "policy", [None, 3, object(), {"a": 1}], ids=["None", "3", "object", "dict"]
)
def test_an_object_that_can_not_propose_is_refused(policy: Any) -> None:
    with pytest.raises(PolicyConfigError, match="it takes 'fixed'"):
        resolve_policy(policy, POOL)


def test_a_path_that_names_nothing_known_is_refused() -> None:
    with pytest.raises(PolicyConfigError, match="checkpoints/production"):
        resolve_policy(Path("checkpoints/production"), POOL)  # type: ignore[arg-type]


def test_a_strangers_policy_needs_no_base_class() -> None:
    policy = calls("small")
    assert resolve_policy(policy, POOL) is policy


@given(st.dictionaries(st.sampled_from(["small", "medium", "large"]), st.floats()))
def test_a_proposal_is_taken_or_refused_and_nothing_else(probabilities: dict[str, float]) -> None:
    good = all(math.isfinite(p) and 0 <= p <= 1 + 1e-6 for p in probabilities.values())
    good = good and any(probabilities.values())
    try:
        read_proposal(Proposal(probabilities), CARDS)
    except InvalidProposalError:
        assert not good
    else:
        assert good


# Options of a router.


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"max_turns": 0}, "max_turns is 0"),
        ({"max_turns": True}, "max_turns is True"),
        ({"max_turns": 1.5}, "max_turns is 1.5"),
        ({"exploration": -0.1}, "exploration is -0.1"),
        ({"exploration": 1.1}, "exploration is 1.1"),
        ({"exploration": float("nan")}, "exploration is nan"),
        ({"exploration": "half"}, "exploration is 'half'"),
        ({"cost_weight": -1}, "cost_weight is -1"),
        ({"cost_weight": "cheap"}, "cost_weight is 'cheap'"),
        ({"cost_weight": float("inf")}, "cost_weight is inf"),
        ({"budget": 3}, "budget is 3"),
    ],
)
def test_a_bad_option_is_found_before_the_first_request(options: Any, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what):
        Router(POOL, **options)


def test_something_that_is_no_pool_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"ModelPool\.from_yaml"):
        Router([CARDS[0]])  # type: ignore[arg-type]


async def test_numbers_of_numpys_kind_reach_the_record_as_plain_floats() -> None:
    class Float(float):
        pass

    policy = Says(lambda r, c: Proposal({"small": Float(0.5)}, propensity=Float(0.5)))
    decision = await Router(POOL, policy).decide(REQUEST, POOL)
    assert [type(v) for v in decision.scores.values()] == [float]


def test_an_estimate_is_exact() -> None:
    card = ModelCard(
        name="a", model=ScriptedChatModel(["x"]), price={"input": "0.1", "output": "0.2"}
    )
    assert card.estimate_usd(3, 7) == Decimal("0.0000017")
