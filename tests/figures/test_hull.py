from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.hull import hull_of, hulls

# A coarse grid makes ties, duplicates and points on one line common instead of impossible.
coordinate = st.integers(0, 12).map(lambda i: i / 4)
point_sets = st.lists(st.tuples(coordinate, coordinate), min_size=1, max_size=9).map(
    lambda points: np.array(points, dtype=float)
)


def brute_height(points: Floats, at: float) -> float:
    """Best score of any coin toss between two settings that spends at most `at`.

    Left of all points: the toss between the cheapest (and best of those) and nothing.
    """
    x, y = points[:, 0], points[:, 1]
    if at < x.min():
        return float(y[x == x.min()].max() * at / x.min())
    best = max(y[i] for i in range(len(x)) if x[i] <= at)
    for i, j in combinations(range(len(x)), 2):
        a, b = (i, j) if x[i] <= x[j] else (j, i)
        if x[a] <= at < x[b]:
            share = (at - x[a]) / (x[b] - x[a])
            best = max(best, (1 - share) * y[a] + share * y[b])
    return float(best)


def height(points: Floats, at: float) -> float:
    return float(hulls(points[None, :, 0], points[None, :, 1]).height(np.array([at]))[0])


def aiq(points: Floats, lo: float, hi: float) -> float:
    one = hulls(points[None, :, 0], points[None, :, 1])
    return float(one.aiq(np.array([lo]), np.array([hi]))[0])


def cost_of(points: Floats, quality: float) -> float:
    return float(hulls(points[None, :, 0], points[None, :, 1]).cost_of(np.array([quality]))[0])


@given(point_sets, st.floats(0, 4))
def test_the_height_is_the_best_affordable_coin_toss(points: Floats, at: float) -> None:
    assert height(points, at) == pytest.approx(brute_height(points, at), abs=1e-9)


@given(point_sets, st.floats(0, 3), st.floats(0.01, 3))
@settings(max_examples=60, deadline=None)
def test_aiq_is_the_mean_of_brute_force_heights(points: Floats, lo: float, width: float) -> None:
    middles = lo + (np.arange(800) + 0.5) / 800 * width
    expected = np.mean([brute_height(points, at) for at in middles])
    # A level jump inside one of the 800 steps is off by at most its height over 800.
    assert aiq(points, lo, lo + width) == pytest.approx(expected, abs=3.2 / 800)


@given(point_sets, st.floats(0, 3))
def test_parity_is_the_least_cost_whose_height_reaches_the_quality(
    points: Floats, quality: float
) -> None:
    cost = cost_of(points, quality)
    if quality > points[:, 1].max() + 1e-9:
        assert np.isinf(cost)
        return
    if quality > points[:, 1].max() - 1e-9:
        return
    assert brute_height(points, cost) >= quality - 1e-9
    start = points[:, 0].min()
    if cost > start + 1e-6:
        assert brute_height(points, cost - 1e-6) < quality + 1e-9


@given(st.lists(point_sets, min_size=2, max_size=4))
def test_a_batch_is_its_rows(sets: list[Floats]) -> None:
    width = max(len(points) for points in sets)
    padded = np.stack([np.vstack([p, np.repeat(p[-1:], width - len(p), 0)]) for p in sets])
    batch = hulls(padded[:, :, 0], padded[:, :, 1])
    lo, hi = np.full(len(sets), 0.5), np.full(len(sets), 2.5)
    assert batch.aiq(lo, hi) == pytest.approx([aiq(p, 0.5, 2.5) for p in sets], abs=1e-12)


@given(point_sets, point_sets)
def test_more_settings_to_choose_from_never_lower_the_hull(a: Floats, b: Floats) -> None:
    start = max(a[:, 0].min(), 0.0)
    for at in (start, start + 0.7, 3.0):
        assert height(np.vstack([a, b]), at) >= height(a, at) - 1e-9


def test_a_dominated_model_is_no_vertex() -> None:
    points = np.array([[1.0, 0.5], [2.0, 0.6], [3.0, 0.9], [4.0, 0.8]])
    assert hull_of(points[:, 0], points[:, 1]).tolist() == [[1.0, 0.5], [3.0, 0.9]]


def test_aiq_of_a_straight_line_is_its_middle() -> None:
    assert aiq(np.array([[1.0, 0.4], [3.0, 0.8]]), 1.0, 3.0) == pytest.approx(0.6)


def test_right_of_the_last_point_the_height_stays() -> None:
    # Rises 0.4 → 0.8 on [1, 2], then 0.8 on [2, 3].
    assert aiq(np.array([[1.0, 0.4], [2.0, 0.8]]), 1.0, 3.0) == pytest.approx((0.6 + 0.8) / 2)


def test_left_of_the_first_point_answering_nothing_is_mixed_in() -> None:
    # One point at (2, 0.8): 0.4 at cost 1, so 0.6 on average over [1, 2].
    assert aiq(np.array([[2.0, 0.8]]), 1.0, 2.0) == pytest.approx(0.6)


def test_the_origin_does_not_lift_a_curve_that_starts_poorly() -> None:
    points = np.array([[1.0, 0.1], [1.2, 0.8]])
    assert height(points, 1.0) == pytest.approx(0.1)


def test_a_range_without_width_is_the_height_at_its_upper_end() -> None:
    points = np.array([[1.0, 0.4], [3.0, 0.8]])
    assert aiq(points, 2.0, 2.0) == pytest.approx(0.6)
    assert aiq(points, 2.5, 2.0) == pytest.approx(0.6)


def test_parity_interpolates_on_the_edge() -> None:
    assert cost_of(np.array([[1.0, 0.4], [3.0, 0.8]]), 0.7) == pytest.approx(2.5)


def test_parity_below_the_first_point_costs_the_first_point() -> None:
    assert cost_of(np.array([[1.0, 0.4], [3.0, 0.8]]), 0.2) == 1.0


def test_a_quality_that_is_only_just_reached_is_reached() -> None:
    assert cost_of(np.array([[1.0, 0.4], [3.0, 0.8]]), 0.8) == 3.0


def test_parity_is_never_reached_above_every_point() -> None:
    assert cost_of(np.array([[1.0, 0.4], [3.0, 0.8]]), 0.81) == np.inf
