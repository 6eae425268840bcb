"""The k most alike columns, the same on every machine."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg.arrays import most_alike


def test_of_equals_the_first_columns_are_taken() -> None:
    assert most_alike(np.array([[0.0, 0.5, 0.0, 0.5, 0.0]]), 3).tolist() == [[0, 1, 3]]


def test_a_rounding_error_decides_nothing() -> None:
    nearly = np.array([[0.3, 0.1 + 0.2, 0.3 - 1e-16], [0.3, 0.3, 0.3]])
    assert most_alike(nearly, 2).tolist() == [[0, 1], [0, 1]]


@given(
    st.lists(st.lists(st.integers(0, 4), min_size=5, max_size=5), min_size=1, max_size=4),
    st.integers(1, 5),
)
def test_what_is_left_out_is_less_alike_or_comes_later(rows: list[list[int]], k: int) -> None:
    likeness = np.array(rows) / 4
    for values, taken in zip(likeness, most_alike(likeness, k), strict=True):
        first = sorted(range(5), key=lambda column: (-values[column], column))[:k]
        assert taken.tolist() == sorted(first)
