"""The bought world: budgets hold, and the whole table for sale is the whole gain."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.worlds import bought
from xrouter_lg.outcomes.grid import OutcomeGrid

KINDS = ("sum of integers", "rhyme about spring", "capital of a country")


@pytest.fixture(scope="module")
def table() -> OutcomeGrid:
    """Three kinds of request, each with another card that is good at it."""
    rng = np.random.default_rng(0)
    kind = np.arange(240) % 3
    chance = np.where(np.arange(3)[None, :] == kind[:, None], 0.9, 0.3)
    return OutcomeGrid(
        tuple(("s", "t", str(i)) for i in range(240)),
        tuple(f"the {KINDS[k]} number{rng.integers(9)} {i}" for i, k in enumerate(kind)),
        ("",) * 240,
        ("small", "medium", "large"),
        (rng.random((240, 3)) < chance).astype(float),
        np.tile([1.0, 2.0, 4.0], (240, 1)) * rng.uniform(0.5, 1.5, (240, 1)),
    )


@pytest.mark.parametrize("way", bought.WAYS)
@pytest.mark.parametrize("log", bought.LOGS)
def test_no_way_of_buying_spends_more_than_its_budget(
    table: OutcomeGrid, way: str, log: str
) -> None:
    half = bought.Half.of(table, 0)
    buyer = bought.Buyer.after(log, half, 0)
    known = np.isfinite(buyer.score)
    bought._BUY[way](buyer, 0.2 * half.all_usd)
    paid = half.train.cost[buyer.bought].sum()
    assert 0.15 * half.all_usd < paid <= 0.2 * half.all_usd
    assert buyer.spent == pytest.approx(paid)
    assert (np.isfinite(buyer.score) == (known | buyer.bought)).all()
    assert (buyer.score[buyer.bought] == half.train.score[buyer.bought]).all()


def test_all_that_is_for_sale_is_worth_all_that_there_is(table: OutcomeGrid) -> None:
    full, rows = bought.shares(
        table,
        splits=2,
        logs=("nothing",),
        ways=("random prompts",),
        budgets=(0.05, 1.0 + 1e-9),
        say=lambda text: None,
    )
    little, everything = rows
    assert everything.share == pytest.approx(1.0)
    assert everything.gain == pytest.approx(full) and full > 0.05
    assert little.share < 1.0


def test_a_log_of_rules_is_one_sided_and_has_thumbs_on_a_third(table: OutcomeGrid) -> None:
    half = bought.Half.of(table, 0)
    buyer = bought.Buyer.after("rules", half, 0)
    assert (np.isfinite(buyer.cost).sum(1) == 1).all()
    scored = np.isfinite(buyer.score).sum()
    assert 0.15 * len(half.train) < scored < 0.45 * len(half.train)
    assert set(buyer.error[np.isfinite(buyer.score)].tolist()) == {0.1}
