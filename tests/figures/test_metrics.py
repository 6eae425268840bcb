from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from xrouter_lg.figures.bootstrap import bootstrap_means, figure
from xrouter_lg.figures.curve import (
    Curve,
    Predictions,
    choose,
    fixed_curve,
    oracle_curve,
    predicted_curve,
    random_curve,
    shuffled_curve,
    static_mix_curve,
)
from xrouter_lg.figures.metrics import Reference, difference, evaluate, oracle_luck, resample
from xrouter_lg.figures.quality import calibration
from xrouter_lg.outcomes.grid import OutcomeGrid


@pytest.fixture
def hand(make_table: Callable[..., OutcomeGrid]) -> OutcomeGrid:
    """Cheap: score ½ at $1. Dear: score ¾ at $5. On p1 only cheap is right."""
    return make_table(
        [[1, 1], [1, 0], [0, 1], [0, 1]],
        [[1, 5], [1, 5], [1, 5], [1, 5]],
    )


def single(table: OutcomeGrid, choice: list[int]) -> Curve:
    rows = np.arange(len(table))
    picks = np.array([choice])
    return Curve("hand", np.zeros(1), table.score[rows, picks], table.cost[rows, picks], picks)


def test_the_zero_router_of_two_models_is_the_middle_of_their_line(hand: OutcomeGrid) -> None:
    sample = resample(fixed_curve(hand), hand, Reference.of(hand), draws=2)
    assert sample.zero_aiq[0] == pytest.approx((0.5 + 0.75) / 2)


def test_a_perfect_choice_gains_what_the_hull_says(hand: OutcomeGrid) -> None:
    # cheap, cheap, dear, dear: score 1 at $3. Left of $3 the line to the origin, right of it 1:
    # over [1, 5] the mean is ((1/3 + 1)/2 · 2 + 1 · 2) / 4 = 5/6.
    found = evaluate(single(hand, [0, 0, 1, 1]), hand, Reference.of(hand), draws=5)
    assert found.aiq.value == pytest.approx(5 / 6)
    assert found.gain.value == pytest.approx(5 / 6 - 5 / 8)


def test_parity_is_a_share_of_the_best_fixed_models_cost(hand: OutcomeGrid) -> None:
    found = evaluate(single(hand, [0, 0, 1, 1]), hand, Reference.of(hand), draws=5)
    assert found.parity_share.value == pytest.approx(3 / 5)


def test_a_policy_below_the_best_fixed_model_never_has_parity(hand: OutcomeGrid) -> None:
    found = evaluate(single(hand, [0, 0, 0, 0]), hand, Reference.of(hand), draws=5)
    assert found.parity_share.value is None
    assert found.parity_cost_weight is None


def test_cpt_of_the_static_mix_is_the_share_of_the_gap(hand: OutcomeGrid) -> None:
    # The straight line between weak and strong recovers x % of the gap at x % of strong calls.
    found = evaluate(static_mix_curve(hand, hand), hand, Reference.of(hand), draws=5)
    assert found.cpt50.value == pytest.approx(0.5)
    assert found.cpt80.value == pytest.approx(0.8)


def test_router_cost_moves_the_curve_to_the_right(hand: OutcomeGrid) -> None:
    reference = Reference.of(hand)
    predictions = Predictions(hand.score, hand.cost)
    free = predicted_curve("free", predictions, hand, c_ref=5.0)
    paid = predicted_curve("paid", predictions, hand, c_ref=5.0, router_cost=0.5)
    assert paid.points[:, 0] == pytest.approx(free.points[:, 0] + 0.5)
    assert difference(paid, free, hand, reference, draws=5).value < 0  # type: ignore[operator]


def test_router_share_is_its_part_of_all_money(hand: OutcomeGrid) -> None:
    predictions = Predictions(hand.score, hand.cost)
    paid = predicted_curve("paid", predictions, hand, c_ref=5.0, router_cost=0.5, dial=(0.0,))
    # cheap on p0 (tie, the cheaper), cheap, dear, dear: $12 of calls, $2 of routing.
    assert evaluate(paid, hand, Reference.of(hand), draws=2).router_share == pytest.approx(2 / 14)


def test_regret_of_the_oracle_is_nothing(hand: OutcomeGrid) -> None:
    curve = oracle_curve(hand, c_ref=5.0)
    assert evaluate(curve, hand, Reference.of(hand), draws=5).regret.value == pytest.approx(0.0)


def test_collapse_is_the_share_of_the_most_used_model(hand: OutcomeGrid) -> None:
    found = evaluate(single(hand, [0, 1, 1, 1]), hand, Reference.of(hand), draws=2)
    assert found.largest_share == (0.75,)


def test_a_resample_recomputes_range_and_zero_router(hand: OutcomeGrid) -> None:
    costs = hand.cost * np.array([[1.0], [2.0], [3.0], [4.0]])
    table = replace(hand, cost=costs)
    sample = resample(fixed_curve(table), table, Reference.of(table), draws=50)
    assert len(set(sample.lo.tolist())) > 5
    # The fixed models' own curve has no gain on any resample.
    assert np.abs(sample.aiq - sample.zero_aiq).max() < 1e-12


def test_a_difference_with_itself_has_no_width(two_tasks: OutcomeGrid) -> None:
    curve = static_mix_curve(two_tasks, two_tasks)
    found = difference(curve, curve, two_tasks, Reference.of(two_tasks), draws=50)
    assert (found.low, found.high) == (0.0, 0.0)


def test_bootstrap_means_agree_with_resampling_by_index() -> None:
    values = np.random.default_rng(0).random((2, 40))
    means = bootstrap_means(values, draws=3, seed=5)
    picks = np.random.default_rng(5).integers(0, 40, (64, 40))
    assert means[0] == pytest.approx(values.mean(1))
    for b in range(3):
        assert means[1 + b] == pytest.approx(values[:, picks[b]].mean(1))


def test_the_interval_covers_a_known_mean_about_19_times_in_20() -> None:
    covered = 0
    for seed in range(200):
        values = np.random.default_rng(seed).random((1, 150))
        interval = figure(bootstrap_means(values, draws=300, seed=seed)[:, 0])
        assert interval.low is not None and interval.high is not None
        covered += interval.low < 0.5 < interval.high
    assert 0.90 <= covered / 200 <= 0.985


def test_choose_trades_score_for_cost_at_the_weight() -> None:
    quality, cost = np.array([[0.5, 0.8]]), np.array([[1.0, 3.0]])
    # Break-even at λ · (3 − 1) / c_ref = 0.3, that is λ = 0.3 with c_ref = 2.
    assert choose(quality, cost, 0.29, 2.0).tolist() == [1]
    assert choose(quality, cost, 0.31, 2.0).tolist() == [0]
    assert choose(quality, cost, np.inf, 2.0).tolist() == [0]


def test_equal_utility_goes_to_the_cheaper() -> None:
    assert choose(np.array([[0.7, 0.7]]), np.array([[3.0, 1.0]]), 0.0, 1.0).tolist() == [1]


def test_predictions_choose_but_true_costs_are_paid(hand: OutcomeGrid) -> None:
    wrong = Predictions(np.array([[0.0, 1.0]] * 4), np.full((4, 2), 0.01))
    curve = predicted_curve("wrong", wrong, hand, c_ref=5.0, dial=(0.0,))
    assert curve.cost.tolist() == [[5.0] * 4]


def test_a_shuffle_keeps_the_shares_and_loses_the_knowledge(hand: OutcomeGrid) -> None:
    shuffled = shuffled_curve(single(hand, [0, 0, 1, 1]), hand)
    # Half cheap, half dear whatever the prompt: ½ · ½ + ½ · ¾ at $3.
    assert shuffled.points[0] == pytest.approx([3.0, 0.625])


def test_a_shuffle_pays_for_the_router_too(hand: OutcomeGrid) -> None:
    predictions = Predictions(hand.score, hand.cost)
    paid = predicted_curve("paid", predictions, hand, c_ref=5.0, router_cost=0.5, dial=(0.0,))
    # Two prompts cheap, two dear.
    assert shuffled_curve(paid, hand).points[0, 0] == pytest.approx(3.5)


def test_random_is_the_mean_model(hand: OutcomeGrid) -> None:
    assert random_curve(hand).points[0] == pytest.approx([3.0, 0.625])


def test_the_static_mix_takes_its_models_from_train(make_table: Callable[..., OutcomeGrid]) -> None:
    train = make_table([[1, 0], [1, 0]], [[1, 2], [1, 2]])
    test = make_table([[0, 1], [0, 1]], [[1, 2], [1, 2]])
    # On train the second model is dominated, so the mix never learns that it is better here.
    assert static_mix_curve(train, test).points.tolist() == [[1.0, 0.0]]


def test_oracle_luck_grows_with_disagreement(two_tasks: OutcomeGrid) -> None:
    reference = Reference.of(two_tasks)
    low = oracle_luck(two_tasks, reference, disagreement=0.03)
    high = oracle_luck(two_tasks, reference, disagreement=0.19)
    assert 0 < low < high


def test_oracle_luck_is_the_loss_of_a_second_run(make_table: Callable[..., OutcomeGrid]) -> None:
    # Two coins at one price: the oracle is right on 3 of 4, a second run of its picks is right
    # with probability 1 − d on the three (p = ½: a right answer is lost with d / 1) and d on the
    # fourth.
    table = make_table([[1, 1], [1, 0], [0, 1], [0, 0]], [[1, 1]] * 4)
    d = 0.1
    expected = 0.75 - (0.75 * (1 - d) + 0.25 * d)
    assert oracle_luck(table, Reference(0, 0, 1.0), disagreement=d) == pytest.approx(expected)


def test_calibration_by_hand() -> None:
    found = calibration(np.array([0.2, 0.2, 0.9, 0.9]), np.array([0.0, 1.0, 1.0, 1.0]))
    # Bins: .2 against .5 and .9 against 1, half the weight each.
    assert found.ece == pytest.approx(0.5 * 0.3 + 0.5 * 0.1)
    assert found.brier == pytest.approx((0.04 + 0.64 + 0.01 + 0.01) / 4)
    assert found.brier_of_mean == pytest.approx(0.1875)


def test_a_probability_of_one_has_a_bin() -> None:
    assert calibration(np.array([1.0]), np.array([1.0])).bins == ((1.0, 1.0, 1),)


def test_probabilities_outside_the_unit_interval_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        calibration(np.array([1.2]), np.array([1.0]))
