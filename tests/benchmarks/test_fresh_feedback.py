"""Feedback on fresh requests against what old logs hold, end to end on a tiny base."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmarks.experiments.fresh_feedback.figures import difference
from benchmarks.experiments.fresh_feedback.study import main, prior_of
from benchmarks.experiments.fresh_feedback.world import Revealing, at_random, world_of
from tests.support.tiny_model import write_tiny_base
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid

pytestmark = pytest.mark.train

CHEAP, DEAR = 0, 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Half of the prompts hold a number; only the dear card is right on those, mostly."""
    prompts, rows = [], []
    for i in range(80):
        hard = i % 2 == 0
        key = {"source": "made", "task": "any", "prompt_id": f"{i:02}"}
        text = f"add {i} and {i}" if hard else "name " + "abcdefgh"[i % 8] * (1 + i % 5)
        prompts.append({**key, "prompt": text, "category": "x"})
        for model, cost in (("cheap", 1e-4), ("dear", 1e-3)):
            score = float(i % 3 > 0 if hard and model == "dear" else not hard)
            rows.append({**key, "model": model, "score": score, "cost_usd": cost})
    pl.DataFrame(prompts).write_parquet(tmp_path / "prompts.parquet")
    pl.DataFrame(rows).write_parquet(tmp_path / "outcomes.parquet")
    return tmp_path


@pytest.fixture
def table(data: Path) -> OutcomeGrid:
    return OutcomeTable.load(data).complete_grid()


def test_logs_hold_one_outcome_a_request_and_flatter_the_cheap_card(table: OutcomeGrid) -> None:
    world = world_of(table, "rules", 0)

    known = np.isfinite(world.logged_N_M)
    assert known.sum() == len(world.logs) == known[world.logs].sum()
    assert np.allclose(world.logged_N_M[known], table.score[known])
    parts = [world.logs, world.fresh, world.test]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(table)))

    logged, true = prior_of(world.logged_N_M), prior_of(table.score)
    assert true[DEAR] > true[CHEAP]
    assert logged[CHEAP] > logged[DEAR]


def test_a_flagship_answers_nearly_everything(table: OutcomeGrid) -> None:
    known = np.isfinite(world_of(table, "flagship", 0).logged_N_M)

    assert known[:, DEAR].sum() > 0.7 * known.sum()
    assert known[:, CHEAP].any()


def test_after_a_swap_the_logs_tell_of_another_card(table: OutcomeGrid) -> None:
    world = world_of(table, "swap", 0)

    assert (world.logged_N_M[world.logs] == table.score[world.logs]).all()
    assert (world.table.score[:, DEAR] == table.score[:, CHEAP]).all()
    assert (world.table.cost == table.cost).all()


def test_only_what_was_asked_is_revealed(table: OutcomeGrid) -> None:
    source = Revealing(table)
    source.ask(np.array([3, 3, 5]), np.array([CHEAP, CHEAP, DEAR]))
    assert np.argwhere(source.revealed).tolist() == [[3, CHEAP], [5, DEAR]]

    world = world_of(table, "rules", 1)
    pairs = at_random(world, 17, np.random.default_rng(0))
    assert pairs.sum() == 17
    assert np.isin(np.flatnonzero(pairs.any(1)), world.fresh).all()


def test_a_difference_is_paired_by_prompt() -> None:
    """Prompts differ a lot, the arms by 0.1 on each of them: nothing is left to chance."""
    results = [
        {
            "rule": "r",
            "split": split,
            "arm": arm,
            "test": test,
            "utility_T": [n + more for n in test],
        }
        for split, test in ((0, [0, 5, 9]), (1, [5, 7, 100]))
        for arm, more in (("logs", 0.0), ("grpo", 0.1))
    ]
    assert difference(results, "r", "grpo", "logs") == pytest.approx((0.1, 0.1, 0.1))


def test_it_compares_the_arms_and_goes_on_where_it_was(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_tiny_base(tmp_path / "base")
    run = tmp_path / "run"
    command = [
        "--outcomes", str(data), "--base", str(base), "--output", str(run), "--rules", "swap",
        "--splits", "0", "--rounds", "8", "--epochs", "1", "--trained-layers", "2",
        "--learning-rate", "1e-2",
    ]  # fmt: skip
    assert main(command) == 0

    found = json.loads((run / "feedback.json").read_text())["results"]
    arms = {entry["arm"]: entry for entry in found}
    assert len(arms) == len(found) == 8
    world = world_of(OutcomeTable.load(data).complete_grid(), "swap", 0)
    bought = np.array(arms["grpo"]["bought"])
    assert np.isin(bought[:, 0], world.fresh).all()
    assert len(world.fresh) < len(bought) <= 2 * len(world.fresh)
    # The dear card is not worth its price any more: what is bought can only speak against it.
    assert np.mean(arms["grpo"]["utility_T"]) >= np.mean(arms["logs"]["utility_T"])
    assert np.mean(arms["random"]["utility_T"]) > np.mean(arms["logs"]["utility_T"])
    # Nobody beats the constant choice here: both cards are right on the same prompts.
    assert np.mean(arms["full"]["utility_T"]) <= np.mean(arms["constant"]["utility_T"]) + 1e-9
    assert (run / "feedback.png").read_bytes().startswith(b"\x89PNG")
    assert "over GRPO" in capsys.readouterr().out

    kept = [entry for entry in found if entry["arm"] != "refit"]
    what = json.loads((run / "feedback.json").read_text())["what"]
    (run / "feedback.json").write_text(json.dumps({"what": what, "results": kept}))
    assert main(command) == 0
    said = capsys.readouterr().err
    assert "swap 0 refit" in said
    assert "swap 0 grpo" not in said
    again = json.loads((run / "feedback.json").read_text())["results"]
    refit = next(entry for entry in again if entry["arm"] == "refit")
    assert refit["utility_T"] == arms["refit"]["utility_T"]


def test_what_can_not_be_compared_is_refused(data: Path) -> None:
    command = ["--outcomes", str(data), "--base", "none.gguf"]
    assert main(command) == 2
    assert main([*command, "--models", "cheap"]) == 2
