"""The family head's share: all of it, unless the language model is worth its tokens."""

from __future__ import annotations

import numpy as np
import pytest

from training.run.head_share import choose_share
from xrouter_lg.figures.routed_utility import DENSE_WEIGHTS

N = 400


def _world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two cards; the dear one is needed on half of the prompts. Truth, scores, costs."""
    rng = np.random.default_rng(0)
    hard = rng.random(N) < 0.5
    truth = np.stack([np.where(hard, 0.1, 0.9), np.full(N, 0.9)], axis=1)
    score = (rng.random((N, 2)) < truth).astype(float)
    return truth, score, np.tile([0.001, 0.01], (N, 1))


def _expected(model: np.ndarray, cost: np.ndarray) -> dict[float, tuple[np.ndarray, np.ndarray]]:
    """The head knows the averages only."""
    head = np.tile([0.5, 0.9], (N, 1))
    return {s: (s * head + (1 - s) * model, cost) for s in (1.0, 0.9, 0.5, 0.0)}


def test_a_language_model_that_knows_more_is_read() -> None:
    truth, score, cost = _world()
    found = choose_share(_expected(truth, cost), score, cost, router_usd=1e-6, c_ref_usd=0.01)
    assert found.share < 0.9
    assert found.margin > found.error > 0
    assert found.utility[f"{found.share:g}"] == max(found.utility.values())


def test_noise_is_not_read() -> None:
    _, score, cost = _world()
    noise = np.random.default_rng(1).random((N, 2))
    assert (
        choose_share(_expected(noise, cost), score, cost, router_usd=0.0, c_ref_usd=0.01).share == 1
    )


def test_knowledge_that_costs_more_than_it_brings_is_not_read() -> None:
    truth, score, cost = _world()
    expected = _expected(truth, cost)
    cheap = choose_share(expected, score, cost, router_usd=1e-6, c_ref_usd=0.01)
    price = cheap.margin / float(np.mean(DENSE_WEIGHTS)) * 0.01
    assert choose_share(expected, score, cost, router_usd=0.5 * price, c_ref_usd=0.01).share < 1
    dear = choose_share(expected, score, cost, router_usd=1.5 * price, c_ref_usd=0.01)
    assert dear.share == 1 and dear.margin < 0
    assert dear.utility["1"] == pytest.approx(cheap.utility["1"])


def test_a_card_without_an_outcome_is_not_taken() -> None:
    truth, score, cost = _world()
    score[:200, 0] = cost[:200, 0] = np.nan
    found = choose_share(_expected(truth, cost), score, cost, router_usd=1e-6, c_ref_usd=0.01)
    assert np.isfinite(list(found.utility.values())).all()
