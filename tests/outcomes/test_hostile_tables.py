"""Outcome files from anybody: a table, or an error that says what is wrong and where."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xrouter_lg.errors import XRouterError
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.schema import OUTCOME_COLUMNS

PLAIN: dict[str, Any] = {
    "source": "s",
    "task": "t",
    "prompt_id": "1",
    "model": "m",
    "score": 1.0,
    "cost_usd": 0.1,
    "prompt": "What?",
}
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
FIELDS = st.sampled_from([*OUTCOME_COLUMNS, "prompt", "meta", "unknown"])


def taken(name: str, data: bytes) -> None:
    """Read what may be read; nothing but an error of ours is raised."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        with contextlib.suppress(XRouterError):
            table = OutcomeTable.load(path)
            table.validate()
            table.grid()


@given(st.dictionaries(FIELDS, ANY, max_size=6), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_rows_of_any_values_are_a_table_or_an_error_of_ours(row: Any, count: int) -> None:
    line = json.dumps(PLAIN | row, default=str)
    taken("outcomes.jsonl", "\n".join([line] * count).encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("column", ["score", "cost_usd", "propensity", "feedback", "observed_at"])
def test_a_mapping_is_no_number(column: str, tmp_path: Path) -> None:
    path = tmp_path / "outcomes.jsonl"
    path.write_text(json.dumps(PLAIN | {column: {"a": 1}}))
    with pytest.raises(XRouterError, match=column):
        OutcomeTable.load(path).grid(every=True, more=("score", "cost_usd", column))


@pytest.mark.parametrize("name", ["outcomes.jsonl", "outcomes.csv", "outcomes.parquet"])
@given(st.binary(max_size=200))
@settings(max_examples=40, deadline=None)
def test_bytes_of_any_kind_are_no_table(name: str, data: bytes) -> None:
    taken(name, data)


@given(st.integers(0, 2_000), st.binary(min_size=1, max_size=8))
@example(67, b"\0")  # polars' threads panic
@settings(max_examples=60, deadline=None)
def test_a_parquet_file_that_was_changed_is_an_error_of_ours(at: int, change: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "whole.parquet"
        pl.DataFrame([PLAIN] * 5).write_parquet(path)
        data = bytearray(path.read_bytes())
    at %= len(data)
    data[at : at + len(change)] = change
    taken("outcomes.parquet", bytes(data))
    taken("outcomes.parquet", bytes(data[:at]))


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"score": 1e999999}',
        '{"score": ' + "9" * 5_000 + "}",
        '{"source": "s"' + ', "x": 1' * 20_000 + "}",
        "null",
        "[]",
        "\x00" * 1_000,
        "=1+1,@SUM(A1)",
    ],
    ids=["nested", "infinite", "huge", "columns", "null", "list", "zeros", "formula"],
)
@pytest.mark.parametrize("name", ["outcomes.jsonl", "outcomes.csv"])
def test_shapes_that_break_parsers_are_errors_of_ours(name: str, line: str) -> None:
    taken(name, line.encode())
