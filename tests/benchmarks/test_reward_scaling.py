"""The ablation of reward scaling, end to end on a tiny base."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from benchmarks.experiments.reward_scaling import main
from tests.support.tiny_model import write_tiny_base

pytestmark = pytest.mark.train


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    prompts, rows = [], []
    for i in range(40):
        key = {"source": "made", "task": "any", "prompt_id": str(i)}
        prompts.append({**key, "prompt": f"number {i}", "category": "x"})
        for model, cost in (("cheap", 1e-4), ("dear", 1e-2)):
            score = float(model == "dear" or i % 8 > 0)
            rows.append({**key, "model": model, "score": score, "cost_usd": cost})
    pl.DataFrame(prompts).write_parquet(tmp_path / "prompts.parquet")
    pl.DataFrame(rows).write_parquet(tmp_path / "outcomes.parquet")
    base = write_tiny_base(tmp_path / "base")
    return [
        "--outcomes", str(tmp_path), "--base", str(base), "--output", str(tmp_path / "run"),
        "--steps", "6", "--prompts-per-step", "4", "--trained-layers", "2",
        "--learning-rate", "3e-3", "--weights", "0.01", "2",
    ]  # fmt: skip


def test_it_shows_which_scalings_leave_the_cost_weight_alive(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nearly every answer is right: at λ = 0.01 cost hardly matters, unless groups are scaled."""
    assert main(command) == 0

    found = json.loads((tmp_path / "run" / "ablation.json").read_text())["results"]
    dear = {(e["scale_rewards"], e["cost_weight"]): e["share"]["dear"] for e in found}
    assert len(dear) == 6
    assert dear["none", 0.01] > dear["none", 2.0] + 0.02
    assert dear["group", 0.01] == pytest.approx(dear["group", 2.0], abs=0.02)
    assert (tmp_path / "run" / "ablation.png").read_bytes().startswith(b"\x89PNG")
    assert "held-out prompts" in capsys.readouterr().out

    assert main(command) == 0
    assert "group, λ" not in capsys.readouterr().err  # nothing was trained again


def test_what_can_not_be_measured_is_refused(command: list[str]) -> None:
    assert main([*command, "--models", "nobody"]) == 2
    assert main([*command, "--base", "none.gguf"]) == 2
