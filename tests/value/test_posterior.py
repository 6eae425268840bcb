"""What every card scores in every family: what makes it surer, and what it keeps quiet about."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.worlds import draw, evidence, of_grid
from xrouter_lg.value.posterior import Posterior, fit_posterior, noise, unlearned

TRUTH = np.array([[0.9, 0.6, 0.3], [0.3, 0.6, 0.9]])


def families(n: int) -> np.ndarray:
    return np.arange(n) % 2


def variances(score: np.ndarray, **more: object) -> np.ndarray:
    found = fit_posterior(of_grid(score, **more), families(len(score)), 2)
    return np.einsum("fmm->fm", found.covariance_F_M_M)


def test_scores_come_near_the_truth_that_made_them() -> None:
    found = fit_posterior(of_grid(draw(TRUTH, families(1000), 0)), families(1000), 2)
    assert found.mean_F_M == pytest.approx(TRUTH, abs=0.07)
    assert (found.tries_F_M == 500).all()
    assert found.worth_F_M == pytest.approx(np.full((2, 3), 500.0))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_more_outcomes_leave_less_doubt(seed: int) -> None:
    score = draw(TRUTH, families(800), seed)
    assert (variances(score) < variances(score[:80])).all()


def test_an_outcome_worth_less_leaves_more_doubt() -> None:
    score = draw(TRUTH, families(200), 0)
    assert (variances(score, worth=0.2) > variances(score)).all()


def test_a_card_never_asked_in_a_family_is_counted_on_less() -> None:
    score = draw(np.full((2, 3), 0.7), families(300), 1)
    score[families(300) == 0, 2] = np.nan
    found = fit_posterior(of_grid(score), families(300), 2)
    assert found.doubt_F_M[0, 2] > found.doubt_F_M[0, :2].max() + 0.01
    lost = found.mean_F_M - found.cautious(2.0)
    assert lost[0, 2] > lost[0, :2].max() + 0.02
    assert (found.cautious(0.0) == found.mean_F_M).all()
    assert found.tries_F_M[0, 2] == 0 and found.worth_F_M[0, 2] == 0.0


def test_cards_that_were_all_asked_alike_are_doubted_alike() -> None:
    # The same outcomes for each card, so that nothing at all tells them apart.
    one = draw(np.array([[0.7], [0.4]]), families(200), 0)
    found = fit_posterior(of_grid(np.repeat(one, 3, axis=1)), families(200), 2)
    assert found.doubt_F_M == pytest.approx(np.zeros((2, 3)), abs=1e-9)
    assert found.cautious(5.0) == pytest.approx(found.mean_F_M, abs=1e-8)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations([0, 1, 2]))
def test_the_order_of_cards_and_families_is_no_matter(seed: int, order: list[int]) -> None:
    score = draw(TRUTH, families(120), seed)
    score[np.random.default_rng(seed).random(score.shape) < 0.3] = np.nan
    plain = fit_posterior(of_grid(score), families(120), 2)
    moved = fit_posterior(of_grid(score[:, order]), 1 - families(120), 2)
    assert moved.mean_F_M == pytest.approx(plain.mean_F_M[::-1][:, order], abs=1e-8)
    spread = plain.covariance_F_M_M[::-1][:, order][:, :, order]
    assert moved.covariance_F_M_M == pytest.approx(spread, abs=1e-9)


@pytest.mark.parametrize("error", [0.1, 0.3])
def test_thumbs_that_err_tell_the_true_score_but_less_surely(error: float) -> None:
    rng = np.random.default_rng(4)
    score = draw(TRUTH, families(6000), 3)
    thumb = np.where(rng.random(score.shape) < error, 1.0 - score, score)
    told = fit_posterior(of_grid(thumb, error=error), families(6000), 2)
    assert told.mean_F_M == pytest.approx(TRUTH, abs=0.05)
    # Taken at its word, the same is biased.
    naive = fit_posterior(of_grid(thumb), families(6000), 2)
    assert np.abs(naive.mean_F_M - TRUTH).max() > 0.05
    assert (variances(thumb, error=error) > variances(score)).all()


def test_a_cards_kin_tell_something_of_it() -> None:
    """Two cards that fail on the same families; in one family only the first was asked."""
    rng = np.random.default_rng(0)
    level = rng.uniform(0.1, 0.9, 30)
    truth = np.stack([level, level, rng.uniform(0.1, 0.9, 30)], axis=1)
    truth[0], truth[1] = [0.95, 0.95, 0.5], [0.05, 0.05, 0.5]
    family = np.repeat(np.arange(30), 40)
    score = draw(truth, family, 1)
    score[np.isin(family, [0, 1]), 1] = np.nan
    found = fit_posterior(of_grid(score), family, 30).mean_F_M
    assert found[0, 1] > found[1, 1] + 0.3


def test_nothing_to_learn_from_is_an_error() -> None:
    nothing = evidence([], [], [], prompts=3, cards=2)
    with pytest.raises(ValueError, match="no outcome has a score"):
        fit_posterior(nothing, np.zeros(3, dtype=np.int64), 1)


def test_what_a_card_is_counted_on_for_is_a_score() -> None:
    score = draw(np.full((2, 3), 0.9), families(300), 1)
    score[families(300) == 0, 2] = np.nan
    found = fit_posterior(of_grid(score), families(300), 2)
    for caution in (0.0, 2.0, 1e6, -1e6):
        counted = found.cautious(caution)
        assert (counted >= 0.0).all() and (counted <= 1.0).all()
    assert found.cautious(1e6)[0, 2] == 0.0 and found.cautious(-1e6)[0, 2] == 1.0


def test_a_card_that_was_always_right_is_not_certain_to_be() -> None:
    assert noise(np.array([1.0]), 0.5) == pytest.approx([0.9 * 0.02 * 0.98 + 0.025])
    assert noise(np.array([0.5]), 0.5) == pytest.approx([0.25])


def test_the_doubt_of_a_card_is_the_error_of_its_distance_from_the_known_ones() -> None:
    # Two cards asked alike and independent: each one's distance from their mean has half the
    # variance. A third that nobody asked is as far from that mean as its own error and the mean's.
    found = Posterior(
        mean_F_M=np.full((1, 3), 0.5),
        covariance_F_M_M=np.diag([0.04, 0.04, 0.09])[None],
        tries_F_M=np.array([[5, 5, 0]]),
        worth_F_M=np.array([[5.0, 5.0, 0.0]]),
    )
    known, unasked = np.sqrt(0.04 / 2), np.sqrt(0.09 + 0.04 / 2)
    assert found.doubt_F_M == pytest.approx(np.array([[0.0, 0.0, unasked - known]]))


def test_before_any_outcome_cards_are_alike_and_kin() -> None:
    found = unlearned(2, 3)
    assert (found.mean_F_M == 0.5).all() and (found.doubt_F_M < 1e-9).all()
    assert not found.tries_F_M.any() and not found.worth_F_M.any()
    covariance = found.covariance_F_M_M[1]
    assert (covariance > 0).all() and (np.linalg.eigvalsh(covariance) > 0).all()
    assert covariance[0, 0] > covariance[0, 1] == covariance[1, 2]
