"""Small grids whose figures can be worked out by hand, as fixtures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.grids import make_grid, two_task_grid
from xrouter_lg.outcomes.grid import OutcomeGrid


@pytest.fixture
def make_table() -> Callable[..., OutcomeGrid]:
    return make_grid


@pytest.fixture
def two_tasks() -> OutcomeGrid:
    return two_task_grid()
