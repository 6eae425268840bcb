from __future__ import annotations

import numpy as np
import pytest

from xrouter_lg.arrays import Floats
from xrouter_lg.judge.traffic.offpolicy import Logged, OffPolicy, estimate
from xrouter_lg.outcomes.grid import OutcomeGrid


def greedy(table: OutcomeGrid) -> Floats:
    """[N, 3] the right cheap model for each kind of prompt."""
    sums = np.array([family == "sums" for family in table.families])
    return np.where(sums[:, None], [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])


def log_from(table: OutcomeGrid, logging: Floats, seed: int) -> Logged:
    rng = np.random.default_rng(seed)
    action = (rng.random((len(table), 1)) > logging.cumsum(1)).sum(1)
    rows = np.arange(len(table))
    return Logged(action, logging[rows, action], table.score[rows, action], logging)


def simulate(
    table: OutcomeGrid, logging: Floats, model: Floats | None, runs: int
) -> list[OffPolicy]:
    target = greedy(table)
    return [
        estimate(log_from(table, logging, seed), target, model=model, min_effective=30)
        for seed in range(runs)
    ]


def values(runs: list[OffPolicy], kind: str) -> Floats:
    """One estimate per run."""
    return np.array([getattr(run, kind).value for run in runs])


@pytest.fixture
def logging(two_tasks: OutcomeGrid) -> Floats:
    """Prefers the large model, explores the others."""
    return np.tile([0.25, 0.15, 0.6], (len(two_tasks), 1))


@pytest.fixture
def truth(two_tasks: OutcomeGrid) -> float:
    return float((greedy(two_tasks) * two_tasks.score).sum(1).mean())


@pytest.fixture
def model(two_tasks: OutcomeGrid) -> Floats:
    """A coarse reward model: right about the kinds, too optimistic by 0.1 throughout."""
    sums = np.array([family == "sums" for family in two_tasks.families])
    return np.where(sums[:, None], [[0.9, 0.4, 0.9]], [[0.4, 0.9, 0.9]]) + 0.1


@pytest.mark.parametrize("kind", ["ips", "snips", "doubly_robust"])
def test_the_mean_of_many_logs_is_the_truth_of_the_full_table(
    kind: str, two_tasks: OutcomeGrid, logging: Floats, model: Floats, truth: float
) -> None:
    runs = simulate(two_tasks, logging, model, 200)
    found = values(runs, kind)
    error = found.std() / np.sqrt(len(found))
    assert abs(found.mean() - truth) < 4 * error + 0.003


@pytest.mark.parametrize("kind", ["ips", "snips", "doubly_robust"])
def test_the_interval_covers_the_truth(
    kind: str, two_tasks: OutcomeGrid, logging: Floats, model: Floats, truth: float
) -> None:
    runs = simulate(two_tasks, logging, model, 200)
    covered = [getattr(r, kind).low < truth < getattr(r, kind).high for r in runs]
    # The prompts are fixed here, so intervals that also carry their luck are on the wide side.
    assert np.mean(covered) >= 0.92


def test_a_reward_model_makes_the_estimate_calmer(
    two_tasks: OutcomeGrid, logging: Floats, model: Floats
) -> None:
    runs = simulate(two_tasks, logging, model - 0.1, 100)
    ips, robust = np.std(values(runs, "ips")), np.std(values(runs, "doubly_robust"))
    assert robust < 0.6 * ips


def test_doubly_robust_forgives_a_nonsense_model(
    two_tasks: OutcomeGrid, logging: Floats, truth: float
) -> None:
    nonsense = np.tile([0.0, 0.2, 1.0], (len(two_tasks), 1))
    runs = simulate(two_tasks, logging, nonsense, 200)
    assert values(runs, "doubly_robust").mean() == pytest.approx(truth, abs=0.02)


def test_the_estimators_by_hand() -> None:
    log = Logged(np.array([0, 1, 0]), np.array([0.5, 0.5, 0.5]), np.array([1.0, 0.0, 0.5]))
    target = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    model = np.array([[0.8, 0.1], [0.6, 0.1], [0.4, 0.2]])
    found = estimate(log, target, model=model, min_effective=1)
    # Weights 2, 0, 1: IPS (2 + 0.5) / 3, SNIPS 2.5 / 3,
    # DR: 0.8 + 2·0.2 = 1.2; 0.6; 0.3 + 1·0.1 = 0.4.
    assert found.ips is not None and found.ips.value == pytest.approx(2.5 / 3)
    assert found.snips is not None and found.snips.value == pytest.approx(2.5 / 3)
    assert found.doubly_robust is not None
    assert found.doubly_robust.value == pytest.approx((1.2 + 0.6 + 0.4) / 3)
    assert found.effective == pytest.approx(9 / 5)


def test_a_log_of_the_target_itself_loses_no_sample(two_tasks: OutcomeGrid) -> None:
    uniform = np.full((len(two_tasks), 3), 1 / 3)
    found = estimate(log_from(two_tasks, uniform, 0), uniform)
    assert found.effective == pytest.approx(len(two_tasks))


def test_too_few_effective_samples_are_refused(two_tasks: OutcomeGrid) -> None:
    rare = np.tile([0.02, 0.02, 0.96], (len(two_tasks), 1))
    found = estimate(log_from(two_tasks, rare, 1), greedy(two_tasks))
    assert found.refused is not None and "worth" in found.refused
    assert (found.ips, found.snips, found.doubly_robust) == (None, None, None)


def test_actions_never_explored_are_refused(two_tasks: OutcomeGrid) -> None:
    blind = np.tile([0.5, 0.0, 0.5], (len(two_tasks), 1))
    found = estimate(log_from(two_tasks, blind, 1), greedy(two_tasks), min_effective=10)
    assert found.refused is not None and "never takes" in found.refused


def test_wrong_propensities_are_noticed_by_their_weights(
    two_tasks: OutcomeGrid, logging: Floats
) -> None:
    honest = log_from(two_tasks, logging, 0)
    lying = Logged(honest.action, np.full(len(two_tasks), 0.6), honest.reward)
    found = estimate(lying, greedy(two_tasks), min_effective=10)
    assert found.refused is not None and "average" in found.refused


def test_a_propensity_of_zero_is_no_log() -> None:
    with pytest.raises(ValueError, match="propensities"):
        Logged(np.array([0]), np.array([0.0]), np.array([1.0]))
