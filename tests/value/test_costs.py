"""What every card costs on a family's requests, from whatever was paid."""

from __future__ import annotations

import numpy as np
import pytest

from xrouter_lg.value.costs import family_costs

SHORT, LONG = 0, 1
FAMILY = np.repeat([SHORT, LONG], 200)
SIZE = np.where(FAMILY == LONG, 10.0, 1.0)[:, None]


def test_a_card_only_sent_long_requests_is_not_taken_for_a_dear_one() -> None:
    usd = np.array([1.0, 2.0, 1.0]) * SIZE
    usd[FAMILY == SHORT, 2] = np.nan
    found = family_costs(usd, FAMILY, 2)
    assert found[SHORT, 2] == pytest.approx(found[SHORT, 0], rel=0.1)
    assert found[SHORT, 2] < np.nanmean(usd[:, 2]) / 5
    assert found[LONG, 2] == pytest.approx(10.0, rel=0.05)


def test_a_card_of_which_no_cost_is_known_has_none() -> None:
    usd = np.array([1.0, np.nan]) * SIZE
    found = family_costs(usd, FAMILY, 2)
    assert np.isnan(found[:, 1]).all() and np.isfinite(found[:, 0]).all()


def test_a_free_card_is_free_and_hides_nothing_of_the_others() -> None:
    free = family_costs(np.array([0.0, 2.0]) * SIZE, FAMILY, 2)
    assert (free[:, 0] == 0.0).all()
    assert free[:, 1] == pytest.approx([2.0, 20.0], rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_on_complete_grids_the_families_add_up_to_what_was_paid(seed: int) -> None:
    rng = np.random.default_rng(seed)
    usd = np.array([1.0, 3.0]) * SIZE * rng.uniform(0.5, 1.5, (400, 2))
    found = family_costs(usd, FAMILY, 2)
    assert found[FAMILY].sum(0) == pytest.approx(usd.sum(0), rel=0.02)


def test_a_family_with_little_paid_is_read_by_level_and_size() -> None:
    usd = np.array([1.0, 2.0]) * SIZE
    usd[FAMILY == LONG, 1] = np.nan
    usd[-1, 1] = 200.0  # one odd bill where 20 is usual
    found = family_costs(usd, FAMILY, 2)
    assert found[LONG, 1] < 120.0
    assert found[LONG, 1] > family_costs(np.where(usd == 200.0, np.nan, usd), FAMILY, 2)[LONG, 1]
