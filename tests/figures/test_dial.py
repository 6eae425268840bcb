from __future__ import annotations

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.curve import Curve, Predictions, predicted_curve
from xrouter_lg.figures.dial import check_dial
from xrouter_lg.outcomes.grid import OutcomeGrid


def curve(cost: Floats, score: Floats) -> Curve:
    return Curve("hand", np.arange(float(len(cost))), score, cost)


def falling(settings: int, n: int, seed: int = 0) -> Floats:
    rng = np.random.default_rng(seed)
    return np.linspace(1, 0.2, settings)[:, None] + 0.3 * rng.standard_normal((settings, n))


def test_a_chooser_with_fixed_predictions_has_a_monotone_dial(two_tasks: OutcomeGrid) -> None:
    noise = np.random.default_rng(1).random(two_tasks.score.shape)
    cost = np.broadcast_to(two_tasks.cost.mean(0), noise.shape)
    c_ref = two_tasks.reference_cost()
    found = check_dial(predicted_curve("p", Predictions(noise, cost), two_tasks, c_ref=c_ref))
    assert found.monotone and found.moves


def test_a_cost_that_rises_on_every_prompt_breaks_the_dial() -> None:
    cost = np.ones((8, 50))
    cost[5] += 0.01
    found = check_dial(curve(cost, falling(8, 50)))
    assert not found.monotone
    assert {(rise.what, rise.to_weight) for rise in found.rises} == {("cost", 5.0)}


def test_a_slow_drift_over_many_settings_is_seen_between_the_far_ones() -> None:
    n = 400
    drift = np.linspace(0, 0.3, 12)[:, None] + np.random.default_rng(3).standard_normal((12, n))
    found = check_dial(curve(falling(12, n), drift))
    assert {rise.what for rise in found.rises} == {"quality"}
    assert all(rise.to_weight - rise.from_weight > 1 for rise in found.rises)


def test_noise_alone_rarely_breaks_the_dial() -> None:
    broken = 0
    for seed in range(100):
        level = np.random.default_rng(seed).standard_normal((10, 200))
        broken += not check_dial(curve(falling(10, 200, seed), level)).monotone
    assert broken <= 10


def test_an_inert_dial_does_not_move() -> None:
    found = check_dial(curve(np.ones((8, 20)), np.ones((8, 20))))
    assert found.monotone and not found.moves


def test_rises_within_noise_are_still_measured() -> None:
    cost = np.array([[1.0, 3.0], [3.0, 1.2]])
    found = check_dial(curve(cost, np.ones((2, 2))))
    assert found.monotone
    assert abs(found.largest_cost_rise - 0.1) < 1e-12
