from collections.abc import Sequence

import numpy as np
import pytest

from xrouter_lg.arrays import Floats
from xrouter_lg.value.change import (
    LEFT,
    best_half_life,
    faded,
    find_change,
    residuals,
    since_change,
)
from xrouter_lg.value.evidence import Evidence


def thumbs(
    expected: Floats, true: Floats, *, seed: int, wrong: float = 0.1
) -> tuple[Floats, Floats]:
    """Residuals and variances of thumbs on answers that are right with probability ``true``."""
    rng = np.random.default_rng(seed)
    up = (rng.random(len(true)) < true) != (rng.random(len(true)) < wrong)
    return residuals(evidence(up.astype(float), error=wrong), expected)


def evidence(
    score: Sequence[float] | Floats, *, error: float = 0.0, card: Sequence[int] | None = None
) -> Evidence:
    count = len(score)
    return Evidence(
        np.arange(count),
        np.zeros(count, dtype=np.int64) if card is None else np.array(card),
        np.array(score, dtype=np.float64),
        np.full(count, error),
        np.ones(count),
        np.full(count, np.nan),
        count,
        2,
    )


def test_a_card_that_became_worse_is_found_with_its_moment_and_size() -> None:
    expected = np.full(700, 0.8)
    true = np.where(np.arange(700) < 500, 0.8, 0.5)
    found = find_change(*thumbs(expected, true, seed=0))
    assert found.alarm
    assert abs(found.at - 500) < 40
    assert found.size == pytest.approx(-0.3, abs=0.12)
    assert found.shift == pytest.approx(found.size * 5 / 7, abs=0.08)


def test_a_card_that_stays_what_it_is_raises_few_alarms() -> None:
    expected = np.random.default_rng(1).uniform(0.5, 0.95, 600)
    alarms = [find_change(*thumbs(expected, expected, seed=seed)).alarm for seed in range(60)]
    assert sum(alarms) <= 3


def test_a_card_that_was_always_overrated_has_not_changed() -> None:
    expected, true = np.full(600, 0.9), np.full(600, 0.6)
    found = find_change(*thumbs(expected, true, seed=3))
    assert not found.alarm
    assert abs(found.shift) < 0.05


def test_a_model_that_has_learned_from_what_came_after_hides_no_change() -> None:
    true = np.where(np.arange(600) < 400, 0.8, 0.5)
    found = find_change(*thumbs(np.full(600, 0.7), true, seed=4))
    assert found.alarm
    assert abs(found.at - 400) < 40


def test_a_change_counts_as_far_as_it_is_likely() -> None:
    true = np.where(np.arange(560) < 500, 0.8, 0.5)
    every = [thumbs(np.full(560, 0.8), true, seed=seed) for seed in range(20)]
    shift = [
        np.mean([find_change(one[:count], spread[:count]).shift for one, spread in every])
        for count in (500, 530, 560)
    ]
    assert abs(shift[0]) < 0.03
    assert shift[2] < shift[1] < -0.05


@pytest.mark.parametrize("count", [0, 1, 15])
def test_of_a_few_outcomes_nothing_is_said(count: int) -> None:
    found = find_change(np.full(count, -1.0), np.full(count, 0.1))
    assert (found.probability, found.at, found.shift) == (0.0, count, 0.0)


def test_only_the_changed_cards_older_outcomes_lose_their_worth() -> None:
    known = evidence([1.0, 1.0, 1.0, 1.0], card=[0, 1, 0, 1])
    at = np.array([1.0, 2.0, 3.0, 4.0])
    found = since_change(known, at, np.array([3.0, -np.inf]))
    assert found.worth_R.tolist() == [LEFT, 1.0, 1.0, 1.0]


def test_worth_halves_with_every_half_life() -> None:
    found = faded(evidence([1.0, 0.0, 1.0]), np.array([0.0, 5.0, 10.0]), 5.0)
    assert found.worth_R.tolist() == [0.25, 0.5, 1.0]
    assert faded(evidence([1.0]), np.zeros(1), None).worth_R.tolist() == [1.0]


def test_forgetting_is_chosen_where_cards_drift_and_not_where_they_stay() -> None:
    at, family = np.arange(1500.0), np.zeros(1500, dtype=np.int64)

    def chosen(true: float | Floats, seed: int) -> float | None:
        up = np.random.default_rng(seed).random(1500) < true
        return best_half_life(evidence(up.astype(float)), at, family, 1)

    drifting = [chosen(np.linspace(0.95, 0.15, 1500), seed) for seed in range(3)]
    assert all(one is not None and one < 1500 / 2 for one in drifting)
    assert [chosen(0.6, seed) for seed in range(8)].count(None) >= 7


def test_of_few_outcomes_no_half_life_is_chosen() -> None:
    falling = evidence([1.0] * 200 + [0.0] * 200)
    family = np.zeros(400, dtype=np.int64)
    assert best_half_life(falling, np.arange(400.0), family, 1) is None
