"""Models that cost nothing (a server of one's own) are learned from like any others."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.cli import app
from xrouter_lg.fitting.cost_model import fit_cost_model
from xrouter_lg.fitting.new_card import probe_cost
from xrouter_lg.outcomes.grid import FREE_UNIT_USD, unit_usd
from xrouter_lg.value.means import over_mean

QUESTIONS = {
    "sums": "What is {0} plus {1}?",
    "facts": "Which city is the capital of country {0}?",
    "code": "Write a function number {0} that sorts a list",
}
CHANCE = {"local": {"sums": 0.2, "facts": 0.9, "code": 0.1}, "large": dict.fromkeys(QUESTIONS, 0.8)}

USD = {
    "one model is free": {"local": 0.0, "large": 0.001},
    "the best model is free": {"local": 0.001, "large": 0.0},
    "all models are free": {"local": 0.0, "large": 0.0},
}


def table(folder: Path, usd: dict[str, float]) -> Path:
    luck = random.Random(0)
    rows, prompts = [], []
    for i in range(200):
        task = luck.choice(list(QUESTIONS))
        key = {"source": "app", "task": task, "prompt_id": f"p{i}"}
        prompts.append({**key, "prompt": QUESTIONS[task].format(i, 3 * i), "category": task})
        for model, chances in CHANCE.items():
            right = float(luck.random() < chances[task])
            paid: dict[str, Any] = {"cost_usd": usd[model], "output_tokens": 20, "latency_s": 1.0}
            answer = str(i) if right else luck.choice("xyz")
            rows.append({**key, "model": model, "score": right, "response": answer, **paid})
    pl.DataFrame(rows).write_parquet(folder / "outcomes.parquet")
    pl.DataFrame(prompts).write_parquet(folder / "prompts.parquet")
    return folder


def xrouter(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("kind", ["--head", "--cascade"])
@pytest.mark.parametrize("usd", USD.values(), ids=list(USD))
def test_a_table_with_free_models_trains_a_checkpoint_that_can_be_judged(
    tmp_path: Path, usd: dict[str, float], kind: str
) -> None:
    outcomes = table(tmp_path, usd)
    written = xrouter("train", outcomes, kind, "--output", tmp_path / "checkpoint")
    assert written.exit_code == 0, written.output
    manifest = verify(tmp_path / "checkpoint")
    assert manifest.c_ref_usd == pytest.approx(max(usd.values()) or FREE_UNIT_USD)
    files = ("--outcomes", outcomes / "outcomes.parquet", "--prompts", outcomes / "prompts.parquet")
    judged = xrouter("judge", *files, "--checkpoint", tmp_path / "checkpoint", "--json")
    assert judged.exit_code in (0, 1), judged.output  # promoted or not
    assert isinstance(json.loads(judged.stdout, parse_constant=_refuse), dict)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def test_the_unit_of_money_is_the_best_models_cost_where_it_has_one() -> None:
    assert unit_usd(np.array([0.0, 2.0, 1.0]), 1) == 2.0
    assert unit_usd(np.array([0.0, 2.0, 1.0]), 0) == 1.0
    assert unit_usd(np.zeros(2), 0) == FREE_UNIT_USD


def test_a_free_cards_costs_do_not_vary() -> None:
    ratios = over_mean(np.array([[0.0, 1.0], [0.0, 3.0]]), np.array([0.0, 2.0]))
    assert ratios.tolist() == [[1.0, 0.5], [1.0, 1.5]]
    cost = np.stack([np.zeros(40), np.linspace(1e-3, 3e-3, 40)], axis=1)
    model = fit_cost_model(np.zeros((40, 2)), np.full(40, 10.0), cost, np.zeros(2))
    assert np.isfinite([*model.bias, *model.tokens, *model.low, *model.high]).all()
    assert (model.low[0], model.high[0]) == (0.0, 0.0)


def test_free_cards_tell_nothing_of_a_newcomers_costs() -> None:
    shares = np.eye(2)[[0, 0, 1, 1]]
    cost = np.array([1e-3, 1e-3, 2e-3, 2e-3])
    paid = np.array([[1e-3], [2e-3]])
    both = np.hstack([np.zeros((2, 1)), paid])
    assert probe_cost(shares, cost, both) == pytest.approx(probe_cost(shares, cost, paid))
    assert np.isfinite(probe_cost(shares, cost, np.zeros((2, 1)))).all()
