from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from xrouter_lg.figures.curve import DIAL, Curve, predicted_curve
from xrouter_lg.figures.metrics import Reference, evaluate
from xrouter_lg.judge.baselines.learned import told_label
from xrouter_lg.judge.score import read_choices, score_choices
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split

ROUTER_USD = 3e-6


def keyed(table: OutcomeGrid) -> OutcomeGrid:
    return replace(table, keys=tuple(("src", "task", i) for i in table.prompt_ids))


@pytest.fixture
def halves(two_tasks: OutcomeGrid) -> tuple[OutcomeGrid, OutcomeGrid]:
    return random_split(keyed(two_tasks), seed=0)


@pytest.fixture
def curve(halves: tuple[OutcomeGrid, OutcomeGrid]) -> Curve:
    train, test = halves
    predictions = told_label(train, test.prompts, test.families)
    c_ref = train.reference_cost()
    return predicted_curve("told", predictions, test, c_ref=c_ref, router_cost=ROUTER_USD)


@pytest.fixture
def choices(curve: Curve, halves: tuple[OutcomeGrid, OutcomeGrid]) -> pl.DataFrame:
    """The file of the curve's choices, shuffled: order must carry no meaning."""
    _, test = halves
    assert curve.choice is not None
    rows = []
    for setting, weight in enumerate(curve.cost_weight):
        for n, prompt_id in enumerate(test.prompt_ids):
            source, task, own = prompt_id.split("|")
            m = int(curve.choice[setting, n])
            rows.append(
                {
                    "source": source,
                    "task": task,
                    "prompt_id": own,
                    "cost_weight": float(weight),
                    "model": test.models[m],
                    "score": float(test.score[n, m]),
                    "cost_usd": float(test.cost[n, m]),
                    "router_cost_usd": ROUTER_USD,
                }
            )
    return pl.DataFrame(rows).sample(fraction=1.0, shuffle=True, seed=1)


def test_a_file_scores_as_the_curve_it_was_written_from(
    choices: pl.DataFrame, curve: Curve, halves: tuple[OutcomeGrid, OutcomeGrid], tmp_path: Path
) -> None:
    train, test = halves
    choices.write_parquet(tmp_path / "choices.parquet")
    found = score_choices(tmp_path / "choices.parquet", test, train=train, draws=100)
    expected = evaluate(curve, test, Reference.of(train), draws=100)
    assert found.metrics.aiq.value == pytest.approx(expected.aiq.value)
    assert found.metrics.gain.low == pytest.approx(expected.gain.low)
    assert found.metrics.router_share == pytest.approx(expected.router_share)
    assert found.metrics.largest_share == expected.largest_share
    assert found.dial.settings == len(DIAL)


def test_a_score_is_json(choices: pl.DataFrame, halves: tuple[OutcomeGrid, OutcomeGrid]) -> None:
    train, test = halves
    found = json.loads(json.dumps(score_choices(choices, test, train=train, draws=20).to_json()))
    assert found["metrics"]["aiq"]["value"] > 0.5
    assert found["reference_from"] == "train" and found["best_fixed"] == "large"


def test_probabilities_in_the_file_are_calibrated(
    choices: pl.DataFrame, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    train, test = halves
    sure = choices.with_columns(probability=pl.lit(1.0))
    found = score_choices(sure, test, train=train, draws=5).calibration
    assert found is not None
    assert found.brier == pytest.approx(1 - choices["score"].mean())  # type: ignore[operator]


def test_a_router_may_not_skip_the_hard_prompts(
    choices: pl.DataFrame, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    with pytest.raises(ValueError, match="expected one for each"):
        score_choices(choices.filter(pl.col("score") > 0), halves[1])


def test_a_prompt_answered_twice_is_refused(
    choices: pl.DataFrame, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    doubled = pl.concat([choices.slice(1), choices.slice(1, 1)])
    with pytest.raises(ValueError, match="expected one for each"):
        score_choices(doubled, halves[1])


@pytest.mark.parametrize("column", ["score", "cost_usd"])
def test_a_claim_that_differs_from_the_outcomes_is_refused(
    column: str, choices: pl.DataFrame, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    better = choices.with_columns((pl.col(column) * 0.5).alias(column))
    with pytest.raises(ValueError, match=f"{column} in the choices file differs"):
        score_choices(better, halves[1])


def test_a_model_outside_the_pool_is_named(
    choices: pl.DataFrame, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    stranger = choices.with_columns(model=pl.lit("stranger"))
    with pytest.raises(ValueError, match="stranger"):
        score_choices(stranger, halves[1])


def test_seven_cost_weights_are_too_few(
    choices: pl.DataFrame, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    few = choices.filter(pl.col("cost_weight") < DIAL[7])
    with pytest.raises(ValueError, match="7 cost weights"):
        score_choices(few, halves[1])


def test_unknown_money_is_not_zero_money(
    choices: pl.DataFrame, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    unknown = choices.with_columns(router_cost_usd=pl.lit(None, dtype=pl.Float64))
    with pytest.raises(ValueError, match="unknown is not zero"):
        score_choices(unknown, halves[1])


def test_several_calls_for_one_prompt_are_taken_at_their_word(
    choices: pl.DataFrame, halves: tuple[OutcomeGrid, OutcomeGrid]
) -> None:
    both = choices.with_columns(model=pl.lit("adder+lookup"), cost_usd=pl.col("cost_usd") + 1e-4)
    curve, _ = read_choices(both, halves[1])
    assert curve.choice is None
    assert curve.cost.mean() == pytest.approx(
        float(np.mean(both["cost_usd"].to_numpy())) + ROUTER_USD
    )
