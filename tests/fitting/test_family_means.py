"""Expected scores per family: pooled where luck rules, apart where families differ."""

from __future__ import annotations

import numpy as np
import pytest

from xrouter_lg.fitting.family_means import family_means, group_means, pooled_means


def _world(
    truth_F_M: np.ndarray, prompts: int, seed: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    family = rng.integers(0, len(truth_F_M), prompts)
    score = (rng.random((prompts, truth_F_M.shape[1])) < truth_F_M[family]).astype(float)
    cost = np.tile(np.geomspace(1e-4, 2e-4, truth_F_M.shape[1]), (prompts, 1))
    return score, cost, [f"kind {n:02d}" for n in family]


@pytest.mark.parametrize("seed", range(3))
def test_families_that_differ_keep_their_own_means(seed: int) -> None:
    # No two families are alike: a pool of neighbours would average their differences away.
    truth = np.random.default_rng(100 + seed).uniform(0.0, 1.0, (60, 8))
    score, cost, families = _world(truth, 900, seed)
    found = family_means(score, cost, families)
    assert np.array_equal(found, group_means(score, families, strength=3.0))


@pytest.mark.parametrize("seed", range(3))
def test_families_that_are_alike_share_theirs(seed: int) -> None:
    truth = np.tile([0.7, 0.68, 0.66, 0.5], (20, 1))
    score, cost, families = _world(truth, 400, seed)
    found = family_means(score, cost, families)
    assert np.array_equal(found, pooled_means(score, families))
    # What pooling is for: the estimates vary less over families that do not differ.
    assert found.std(0).mean() < 0.7 * group_means(score, families, strength=3.0).std(0).mean()


def test_too_few_prompts_to_find_out_are_pooled() -> None:
    score, cost, families = _world(np.full((10, 3), 0.5), 30, 0)
    assert np.array_equal(family_means(score, cost, families), pooled_means(score, families))


def test_the_likest_families_are_joined_first() -> None:
    # a and b agree, c does not; d shares no card with any of them.
    score = np.full((160, 3), np.nan)
    score[:40, :2] = np.tile([1.0, 0.0], (40, 1))
    score[40:80, :2] = np.tile([1.0, 0.0], (40, 1))
    score[80:120, :2] = np.tile([0.0, 1.0], (40, 1))
    score[120:, 2] = 1.0
    score[0, 0] = 0.0
    families = [name for name in "abcd" for _ in range(40)]
    found = dict(zip("abcd", pooled_means(score, families), strict=True))
    # Half of a's own luck is gone; b, its pool, took it on.
    assert found["a"][0] > score[:40, 0].mean()
    assert found["b"][0] < found["a"][0] + 0.03
    assert found["c"][0] < 0.1
    assert found["d"][2] == pytest.approx(1.0)
    assert found["d"][0] == pytest.approx(np.nanmean(score[:, 0]))
