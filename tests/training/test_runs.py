"""The whole run on a tiny base: plan, train, judge, export, resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.tiny_model import write_tiny_base
from training import runs
from training.config import BaseConfig, DataConfig, RunConfig
from training.grpo import GrpoSettings
from training.train import main
from training.warm_start import WarmStartConfig
from xrouter_lg.checkpoint import read_manifest, verify
from xrouter_lg.errors import ConfigurationError

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cheap is right on sums, dear on everything."""
    folder = tmp_path_factory.mktemp("outcomes")
    prompts, rows = [], []
    for i in range(60):
        task = "sum" if i % 2 else "proof"
        key = {"source": "made", "task": task, "prompt_id": str(i)}
        prompts.append({**key, "prompt": f"{task} number {i}", "category": task})
        for model, cost, right in (("Cheap-1", 1e-4, task == "sum"), ("dear", 1e-2, True)):
            rows.append(
                {**key, "model": model, "score": float(right), "cost_usd": cost, "output_tokens": 9}
            )
    pl.DataFrame(prompts).write_parquet(folder / "prompts.parquet")
    pl.DataFrame(rows).write_parquet(folder / "outcomes.parquet")
    return folder


def config(base_folder: Path, outcomes: Path, output: Path) -> RunConfig:
    return RunConfig(
        outcomes=str(outcomes),
        output=str(output),
        min_prompts=10,
        data=DataConfig(),
        base=BaseConfig(path=str(base_folder), model_id="tiny", dtype="float32"),
        warm_start=WarmStartConfig(
            epochs=3, frozen_layers=1, lora_rank=4, batch_size=4, learning_rate=1e-2
        ),
        grpo=GrpoSettings(steps=2, prompts_per_step=2, generations=4),
    )


def test_a_run_ends_in_a_checkpoint_and_a_repeated_run_trains_nothing(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    stages: list[str] = []

    def note(stage: str, done: int, whole: int, word: str) -> None:
        stages.append(stage)

    work = runs.plan(config(base_folder, outcomes, tmp_path / "run"))
    manifest = runs.run(work, note)

    assert verify(tmp_path / "run" / "checkpoint") == manifest
    assert {"features", "warm start", "grpo", "judge"} == set(stages)
    assert [card.name for card in manifest.cards] == ["cheap_1", "dear"]
    assert manifest.cards[0].output_tokens == 9
    assert manifest.best_fixed == "dear"
    costs = [point.cost_usd for point in manifest.dial]
    assert costs[0] >= costs[-1]

    stages.clear()
    again = runs.run(work, note)
    assert set(stages) == {"judge"}
    assert again.cards == manifest.cards
    assert again.files == manifest.files


def test_another_setting_trains_again_but_keeps_the_features(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    first = dataclasses.replace(
        config(base_folder, outcomes, tmp_path / "run"), grpo=GrpoSettings(steps=0)
    )
    runs.run(runs.plan(first), lambda *_: None)
    stages: list[str] = []
    other = dataclasses.replace(
        first, warm_start=dataclasses.replace(first.warm_start, learning_rate=2e-3)
    )

    runs.run(runs.plan(other), lambda stage, *_: stages.append(stage))

    assert set(stages) == {"warm start", "judge"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outcomes": "nowhere"}, "outcomes is 'nowhere'"),
        ({"min_prompts": 10_000}, r"at least 10000"),
        ({"base": BaseConfig(path="")}, "base.path is empty"),
        ({"base": BaseConfig(path="none.gguf")}, "does not exist"),
        ({"data": DataConfig(models=("nobody",))}, "nobody"),
        ({"data": DataConfig(train_share=1.0)}, "train_share"),
    ],
)
def test_what_can_not_work_is_found_before_anything_expensive(
    base_folder: Path, outcomes: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    bad = dataclasses.replace(config(base_folder, outcomes, tmp_path / "run"), **change)  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match=said):
        runs.plan(bad)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_prints_the_plan_and_writes_nothing(
    base_folder: Path, outcomes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("min_prompts: 10\nwarm_start: {frozen_layers: 1}\n")
    options = [
        "--config", str(file), "--dry-run", f"outcomes={outcomes}",
        f"output={tmp_path / 'out'}", f"base.path={base_folder}",
    ]  # fmt: skip

    assert main(options) == 0
    assert "to learn from" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*options, "weights=everything"]) == 2


def test_log_loss_of_certain_and_right_is_nothing() -> None:
    assert runs.log_loss(np.array([[50.0, -50.0]]), np.array([[1.0, 0.0]])) < 1e-9
    assert runs.log_loss(np.zeros((1, 2)), np.ones((1, 2))) == pytest.approx(np.log(2))


def test_the_manifest_holds_no_path_of_this_machine(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    quick = dataclasses.replace(
        config(base_folder, outcomes, tmp_path / "run"), grpo=GrpoSettings(steps=0)
    )
    runs.run(runs.plan(quick), lambda *_: None)

    data = read_manifest(tmp_path / "run" / "checkpoint").to_dict()
    data.pop("command")
    for folder in (base_folder, outcomes, tmp_path):
        assert str(folder) not in str(data)
