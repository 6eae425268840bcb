"""Rewards: what each kind pays for."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.config.reward import RewardKind
from training.data.reward import Reward

KINDS: tuple[RewardKind, ...] = ("linear", "success_gated")
SCORES = st.floats(0, 1)
COSTS = st.floats(0, 1)
WEIGHTS = st.floats(0, 20)


def test_linear_takes_the_cost_in_units_of_the_reference() -> None:
    reward = Reward(c_ref_usd=0.01)

    assert reward.one(1.0, 0.005, 0.4) == pytest.approx(1 - 0.4 * 0.5)
    assert reward.one(0.0, 0.005, 0.4) == pytest.approx(-0.2)


def test_success_gated_pays_nothing_for_failure_and_caps_the_penalty() -> None:
    reward = Reward(c_ref_usd=0.01, kind="success_gated")

    assert reward.one(0.0, 0.005, 0.4) == 0.0
    assert reward.one(1.0, 0.005, 0.4) == pytest.approx(0.8)
    assert reward.one(1.0, 9.0, 5.0) == pytest.approx(0.2)


def test_the_routers_own_tokens_are_charged() -> None:
    reward = Reward(c_ref_usd=0.01)

    assert reward.one(1.0, 0.004, 1.0, router_cost_usd=0.001) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_score_or_cost_gives_no_reward(kind: RewardKind) -> None:
    reward = Reward(c_ref_usd=0.01, kind=kind)

    assert reward.one(None, 0.1, 1.0) is None
    assert reward.one(1.0, None, 1.0) is None
    assert math.isnan(float(reward.many(np.array([0.0]), np.array([np.nan]), 1.0)[0]))


@given(SCORES, COSTS, COSTS, WEIGHTS, st.sampled_from(KINDS))
def test_at_equal_scores_the_cheaper_is_never_worse(
    score: float, a: float, b: float, weight: float, kind: RewardKind
) -> None:
    reward = Reward(c_ref_usd=0.1, kind=kind)
    cheap, dear = reward.one(score, min(a, b), weight), reward.one(score, max(a, b), weight)

    assert cheap is not None and dear is not None
    assert cheap >= dear


@given(SCORES, SCORES, COSTS, WEIGHTS, st.sampled_from(KINDS))
def test_at_equal_costs_the_better_is_never_worse(
    a: float, b: float, cost: float, weight: float, kind: RewardKind
) -> None:
    reward = Reward(c_ref_usd=0.1, kind=kind)
    worse, better = reward.one(min(a, b), cost, weight), reward.one(max(a, b), cost, weight)

    assert worse is not None and better is not None
    assert better >= worse


@given(SCORES, COSTS, st.sampled_from(KINDS))
def test_without_a_cost_weight_the_reward_is_the_score(
    score: float, cost: float, kind: RewardKind
) -> None:
    assert Reward(c_ref_usd=0.1, kind=kind).one(score, cost, 0.0) == pytest.approx(score)


@pytest.mark.parametrize(
    "options",
    [{"c_ref_usd": 0.0}, {"c_ref_usd": math.inf}, {"c_ref_usd": 1.0, "cap": 1.5}],
)
def test_nonsense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        Reward(**options)  # type: ignore[arg-type]


def test_a_score_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="scores"):
        Reward(c_ref_usd=1.0).one(1.5, 0.0, 0.0)
