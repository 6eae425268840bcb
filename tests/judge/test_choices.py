"""From estimates to a choices file: who is taken, at what price, and never a missing model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.judge.made import manifest_of, write_tables
from xrouter_lg.checkpoints.parts import DialPoint
from xrouter_lg.figures.curve import DIAL, choose
from xrouter_lg.judge.choices import dial_of, make_choices, write_choices
from xrouter_lg.judge.estimates import Estimates
from xrouter_lg.judge.score import COLUMNS
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid


@pytest.fixture
def table(two_tasks: OutcomeGrid, tmp_path: Path) -> OutcomeGrid:
    write_tables(tmp_path, two_tasks.rows(np.arange(30)))
    outcomes = tmp_path / "outcomes.parquet"
    frame = pl.read_parquet(outcomes)
    # On prompt p0 the cheap models have no outcome.
    holes = (pl.col("prompt_id") == "p0") & (pl.col("model") != "large")
    frame.filter(~holes).write_parquet(outcomes)
    return OutcomeTable.load(tmp_path).grid(cards=two_tasks.models)


@pytest.fixture
def estimates(table: OutcomeGrid) -> Estimates:
    n = len(table)
    # In another order than the table's columns.
    return Estimates(
        ("large", "lookup", "adder"),
        np.tile([0.9, 0.6, 0.5], (n, 1)),
        np.tile([1e-3, 1.1e-4, 1e-4], (n, 1)),
        np.arange(n) + 100.0,
    )


def test_each_prompt_has_one_row_per_cost_weight(table: OutcomeGrid, estimates: Estimates) -> None:
    found = make_choices(table, estimates, c_ref_usd=1e-3, cost_weights=DIAL)
    assert found.height == len(DIAL) * len(table)
    assert not found.select("source", "task", "prompt_id", "cost_weight").is_duplicated().any()
    assert found["cost_weight"].unique().sort().to_list() == sorted(DIAL)


def test_quality_alone_takes_the_best_and_cost_alone_the_cheapest(
    table: OutcomeGrid, estimates: Estimates
) -> None:
    found = make_choices(table, estimates, c_ref_usd=1e-3, cost_weights=(0.0, 100.0))
    best, cheapest = found.partition_by("cost_weight", maintain_order=True)
    assert set(best["model"]) == {"large"}
    assert set(cheapest.filter(pl.col("prompt_id") != "p0")["model"]) == {"adder"}


def test_a_model_without_an_outcome_is_never_taken(
    table: OutcomeGrid, estimates: Estimates
) -> None:
    found = make_choices(table, estimates, c_ref_usd=1e-3, cost_weights=DIAL)
    assert set(found.filter(pl.col("prompt_id") == "p0")["model"]) == {"large"}


def test_what_is_paid_is_the_tables_and_the_routers_own_tokens(
    table: OutcomeGrid, estimates: Estimates
) -> None:
    found = make_choices(
        table, estimates, c_ref_usd=1e-3, cost_weights=(0.0,), router_usd_per_million=2.0
    )
    large = table.models.index("large")
    assert found["cost_usd"].to_numpy() == pytest.approx(table.cost[:, large])
    assert found["score"].to_numpy() == pytest.approx(table.score[:, large])
    assert found["router_cost_usd"].to_numpy() == pytest.approx((np.arange(30) + 100) * 2e-6)


def test_the_file_has_exactly_its_columns_and_appears_whole(
    table: OutcomeGrid, estimates: Estimates, tmp_path: Path
) -> None:
    found = make_choices(table, estimates, c_ref_usd=1e-3, cost_weights=DIAL)
    write_choices(found, tmp_path / "new" / "choices.parquet")
    written = pl.read_parquet(tmp_path / "new" / "choices.parquet")
    assert written.columns == list(COLUMNS) and written.height == found.height
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["choices.parquet"]


def test_the_dial_is_the_manifests_where_it_has_one(two_tasks: OutcomeGrid) -> None:
    manifest = manifest_of(two_tasks)
    assert dial_of(manifest, 0.3) == tuple(sorted({*DIAL, 0.3}))
    own = tuple(DialPoint(float(w), 0.5, 1e-3, 1.0) for w in range(9))
    assert dial_of(replace(manifest, dial=own), 2.0) == tuple(map(float, range(9)))


@given(
    quality=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    cost=st.lists(st.floats(1e-6, 1e-2), min_size=4, max_size=4),
    there=st.lists(st.booleans(), min_size=4, max_size=4).filter(any),
    weight=st.floats(0, 100),
)
def test_leaving_models_out_is_choosing_among_the_others(
    quality: list[float], cost: list[float], there: list[bool], weight: float
) -> None:
    q, c, mask = np.array([quality]), np.array([cost]), np.array([there])
    found = int(choose(q, c, weight, 1e-3, mask)[0])
    kept = np.flatnonzero(there)
    assert found == kept[int(choose(q[:, kept], c[:, kept], weight, 1e-3)[0])]


def test_a_prompt_without_any_candidate_is_an_error() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        choose(np.ones((1, 2)), np.ones((1, 2)), 0.0, 1.0, np.zeros((1, 2), dtype=bool))
