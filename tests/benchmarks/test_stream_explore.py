import numpy as np
import pytest

from benchmarks.stream_parts.explore import Allowance, ask_chances, roots
from xrouter_lg.value.posterior import Posterior, unlearned

NORMAL = np.random.default_rng(0).standard_normal((4000, 3))


def test_cards_that_rise_and_fall_together_are_no_reason_to_explore() -> None:
    together = np.full((3, 1), 0.2)
    found = ask_chances(np.array([0.6, 0.5, 0.5]), together, NORMAL[:, :1], 0, 1.0)
    assert found.tolist() == [1.0, 0.0, 0.0]


def test_the_card_that_may_be_best_is_asked_and_never_past_the_allowance() -> None:
    root = np.diag([0.01, 0.15, 0.02])
    found = ask_chances(np.array([0.7, 0.65, 0.6]), root, NORMAL, 0, 0.2)
    assert found.sum() == pytest.approx(1.0)
    assert found[0] == pytest.approx(0.8)
    assert found[1] > 0.19
    assert ask_chances(np.array([0.7, 0.65, 0.6]), root, NORMAL, 0, 0.0).tolist() == [1, 0, 0]


def test_a_card_that_cannot_be_asked_is_not() -> None:
    found = ask_chances(np.array([0.7, -np.inf, 0.65]), np.eye(3) * 0.1, NORMAL, 0, 0.5)
    assert found[1] == 0.0
    assert found[2] > 0.0


def test_roots_give_back_the_covariance() -> None:
    value = unlearned(2, 4)
    root = roots(value)
    assert root @ root.transpose(0, 2, 1) == pytest.approx(value.covariance_F_M_M, abs=1e-6)


def test_before_any_outcome_all_cards_are_alike() -> None:
    value: Posterior = unlearned(1, 3)
    assert len(np.unique(value.mean_F_M)) == 1
    assert not value.tries_F_M.any()


def test_all_that_can_be_explored_stays_within_the_cap_whatever_is_granted() -> None:
    allowance, spent = Allowance(horizon=2000, at_start=20.0, share=0.02), 0.0
    for at in range(2000):
        if at % 100 == 0:
            allowance.grant(50.0)
        chance = allowance.most
        allowance.spend(chance)
        spent += chance
    assert 80 < spent <= 0.05 * 2000


def test_a_start_that_the_cap_does_not_allow_is_refused() -> None:
    with pytest.raises(ValueError, match="more than the cap"):
        Allowance(cap=0.05, horizon=1000, at_start=120.0, share=0.02)
