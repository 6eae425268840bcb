"""The whole run on a tiny base: plan, train, judge, export, resume."""

from __future__ import annotations

import dataclasses
import json
import signal
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from transformers import TrainerCallback

from tests.support.tiny_model import write_tiny_base
from training.config.asking import LiveConfig
from training.config.grpo import GrpoSettings
from training.config.run import BaseConfig, DataConfig, RunConfig
from training.config.sampling import Sampling
from training.config.tools import ToolsConfig
from training.config.trainer import TrainerConfig
from training.config.warm_start import WarmStartConfig
from training.data.inputs import plan
from training.run.describe import describe
from training.run.estimate import estimate
from training.tools.stage import read_answers
from training.train import main, run_plan
from training.warm_start.targets import log_loss
from training.warm_start.trainer import train_slots
from xrouter_lg.backfill import AnswerCache
from xrouter_lg.checkpoints.folder import read_manifest, verify
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.judge.run import Judged, judge_checkpoint
from xrouter_lg.judge.settings import JudgeSettings
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

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
                {
                    **key,
                    "model": model,
                    "score": float(right),
                    "cost_usd": cost,
                    "output_tokens": 9,
                    "response": f"the answer is {i if right else -1}",
                }
            )
    pl.DataFrame(prompts).write_parquet(folder / "prompts.parquet")
    pl.DataFrame(rows).write_parquet(folder / "outcomes.parquet")
    return folder


def config(base_folder: Path, outcomes: Path, output: Path) -> RunConfig:
    return RunConfig(
        outcomes=str(outcomes),
        output=str(output),
        min_prompts=10,
        family_head_share=0.5,  # the language model has a say, whatever it would be worth
        data=DataConfig(),
        base=BaseConfig(path=str(base_folder), model_id="tiny", dtype="float32"),
        warm_start=WarmStartConfig(
            epochs=3, frozen_layers=1, lora_rank=4, batch_size=4, learning_rate=1e-2
        ),
        grpo=GrpoSettings(steps=2, prompts_per_step=2, generations=4),
    )


def judge(checkpoint: Path, outcomes: Path, **more: Any) -> Judged:
    files = {name: outcomes / f"{name}.parquet" for name in ("outcomes", "prompts")}
    return judge_checkpoint(
        JudgeSettings(checkpoint=checkpoint, baselines=False, draws=20, **files, **more)
    )


class Stages(list[str]):
    """The stages that reported progress, in order."""

    def __call__(self, stage: str, done: int, whole: int, note: str) -> None:
        self.append(stage)


def test_a_run_ends_in_a_checkpoint_and_a_repeated_run_trains_nothing(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    stages = Stages()
    work = plan(config(base_folder, outcomes, tmp_path / "run"))

    manifest = run_plan(work, stages)

    assert manifest is not None
    assert verify(tmp_path / "run" / "checkpoint") == manifest
    assert {"features", "warm start", "grpo", "judge"} == set(stages)
    assert [card.name for card in manifest.cards] == ["cheap_1", "dear"]
    assert manifest.cards[0].output_tokens == 9
    assert manifest.best_fixed == "dear"
    costs = [point.cost_usd for point in manifest.dial]
    assert costs[0] >= costs[-1]
    for name in ("warm_start", "grpo"):
        assert (tmp_path / "run" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert not (tmp_path / "run" / name).exists()  # the trainer's own checkpoints
    marks = json.loads((tmp_path / "run" / "grpo.json").read_text())
    assert marks["validation"][0]["step"] == 0
    assert len(marks["log"]) == 2

    stages.clear()
    again = run_plan(work, stages)
    assert again is not None
    assert set(stages) == {"judge"}
    assert again.cards == manifest.cards
    assert again.files == manifest.files


@pytest.mark.parametrize("share", [0.7, 1.0, "auto"])
def test_what_training_measured_is_what_the_written_checkpoint_does(
    base_folder: Path, outcomes: Path, tmp_path: Path, share: Literal["auto"] | float
) -> None:
    asked = dataclasses.replace(
        config(base_folder, outcomes, tmp_path / "run"),
        grpo=GrpoSettings(steps=0),
        family_head_share=share,
    )
    manifest = run_plan(plan(asked), lambda *_: None)
    assert manifest is not None and manifest.family_head is not None
    if share == "auto":
        # Two kinds told by one word: there is nothing left for the language model to say.
        assert manifest.family_head.share == manifest.metrics["family_head_share"]["share"] == 1.0
    assert (manifest.metrics["router_usd_per_request"] > 0) == (manifest.kind == "slots")

    judged = judge(tmp_path / "run" / "checkpoint", outcomes, base=base_folder)

    served = judged.choices.group_by("cost_weight").agg(
        pl.col("score").mean(), pl.col("cost_usd").mean()
    )
    by_weight = {row[0]: row[1:] for row in served.iter_rows()}
    assert (judged.choices["router_cost_usd"].sum() > 0) == (manifest.kind == "slots")
    assert len(manifest.dial) >= 8
    for point in manifest.dial:
        assert by_weight[point.cost_weight] == pytest.approx((point.quality, point.cost_usd))


def test_where_the_head_has_all_of_the_say_no_language_model_is_trained(
    base_folder: Path, outcomes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auto = config(base_folder, outcomes, tmp_path / "auto")
    auto = dataclasses.replace(auto, grpo=GrpoSettings(steps=0), family_head_share="auto")
    alone = dataclasses.replace(auto, output=str(tmp_path / "alone"), family_head_share=1)
    assert auto.trains_model and not alone.trains_model
    trained = run_plan(plan(auto), lambda *_: None)
    stages, work = Stages(), plan(alone)
    manifest = run_plan(work, stages)

    assert set(stages) == {"judge"}
    assert not (tmp_path / "alone" / "features").exists()
    assert "no language model is trained" in describe(work)
    assert manifest is not None and trained is not None
    assert manifest.kind == trained.kind == "head"
    assert set(manifest.files) == set(trained.files) == {"family_head.safetensors"}
    # The same decisions as of a run that trained one and found no use for it.
    assert manifest.dial == trained.dial
    head = "family_head.safetensors"
    assert manifest.files[head] == trained.files[head]

    def installed(name: str) -> str:
        if name in ("torch", "transformers"):
            raise PackageNotFoundError(name)
        return "1"

    # It is judged where no language model could be run, and without a base.
    monkeypatch.setattr("importlib.metadata.version", installed)
    judged = judge(tmp_path / "alone" / "checkpoint", outcomes, cache=tmp_path / "cache")
    assert judged.choices["router_cost_usd"].sum() == 0


def test_grpo_of_a_head_alone_says_what_it_gained(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    asked = dataclasses.replace(
        config(base_folder, outcomes, tmp_path / "run"),
        grpo=GrpoSettings(steps=2),
        family_head_share=1,
    )
    work = plan(asked)
    assert "grpo         of the head: 2 steps" in describe(work)
    stages = Stages()
    manifest = run_plan(work, stages)
    assert manifest is not None and manifest.kind == "head"
    assert set(stages) == {"grpo", "judge"}
    gain = manifest.metrics["grpo"]
    assert gain["low"] <= gain["gain"] <= gain["high"]
    assert gain["kept"] == (gain["steps"] > 0 and gain["low"] > 0)


def test_a_head_alone_needs_prompts_that_can_be_told_apart(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    one = tmp_path / "one"
    one.mkdir()
    for name in ("prompts", "outcomes"):
        table = pl.read_parquet(outcomes / f"{name}.parquet").with_columns(task=pl.lit("any"))
        if name == "prompts":
            # No prompt has a word of another.
            word = pl.format("word{}", pl.int_range(pl.len()))
            table = table.with_columns(category=pl.lit("any"), prompt=word)
        table.write_parquet(one / f"{name}.parquet")
    asked = dataclasses.replace(
        config(base_folder, one, tmp_path / "run"),
        grpo=GrpoSettings(steps=0),
        family_head_share=1.0,
    )
    with pytest.raises(ConfigurationError, match="family_head_share=auto"):
        run_plan(plan(asked), lambda *_: None)


def test_another_setting_trains_again_but_keeps_the_features(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    first = dataclasses.replace(
        config(base_folder, outcomes, tmp_path / "run"), grpo=GrpoSettings(steps=0)
    )
    run_plan(plan(first), lambda *_: None)
    stages = Stages()
    other = dataclasses.replace(
        first, warm_start=dataclasses.replace(first.warm_start, learning_rate=2e-3)
    )

    run_plan(plan(other), stages)

    assert set(stages) == {"warm start", "judge"}


@pytest.mark.parametrize(
    ("warm", "change"),
    [
        ({"recipe": "plain", "frozen_layers": 0}, {}),
        (
            {"recipe": "plain", "permute": True, "frozen_layers": 0},
            {"sampling": Sampling(permute=True)},
        ),
        ({"recipe": "plain", "method": "full", "frozen_layers": 0}, {"weights": "merged"}),
        ({"method": "full"}, {"weights": "merged"}),
    ],
)
def test_every_recipe_ends_in_a_checkpoint(
    base_folder: Path,
    outcomes: Path,
    tmp_path: Path,
    warm: dict[str, object],
    change: dict[str, object],
) -> None:
    first = config(base_folder, outcomes, tmp_path / "run")
    chosen = dataclasses.replace(
        first,
        warm_start=dataclasses.replace(first.warm_start, epochs=1, **warm),  # type: ignore[arg-type]
        **change,  # type: ignore[arg-type]
    )

    manifest = run_plan(plan(chosen), lambda *_: None)

    assert manifest is not None
    kept = verify(tmp_path / "run" / "checkpoint").language_model
    assert kept is not None
    assert kept.weights == chosen.weights


def test_prompts_without_outcomes_join_grpo_by_live_calls_within_the_budget(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    table = tmp_path / "outcomes"
    table.mkdir()
    pl.read_parquet(outcomes / "outcomes.parquet").write_parquet(table / "outcomes.parquet")
    new = pl.DataFrame(
        [
            {"source": "made", "task": "new", "prompt_id": f"n{i}", "prompt": f"say hello {i}",
             "category": "new", "reference": "hello"}
            for i in range(3)
        ]
    )  # fmt: skip
    known = pl.read_parquet(outcomes / "prompts.parquet")
    pl.concat([known, new], how="diagonal").write_parquet(table / "prompts.parquet")
    verifiers = tmp_path / "verifiers.yaml"
    verifiers.write_text("- {verifier: exact, where: made/new}\n")
    models = [FakeModel(name="cheap_1", reply="hello"), FakeModel(name="dear", reply="hello")]
    with FakeOpenAIServer(models) as server:
        card = "  - {{name: {0}, model: {0}, base_url: '{1}', price: {{input: 1, output: 1}}, "
        card += "max_output_tokens: 16}}\n"
        pool = tmp_path / "pool.yaml"
        pool.write_text(
            "default: dear\nmodels:\n"
            + card.format("cheap_1", server.base_url)
            + card.format("dear", server.base_url)
        )
        first = config(base_folder, table, tmp_path / "run")
        chosen = dataclasses.replace(
            first,
            pool=str(pool),
            live=LiveConfig(budget_usd=0.05, verifiers=str(verifiers), share=0.75),
        )

        assert run_plan(plan(chosen), lambda *_: None) is not None

        asked = [request.body["messages"][-1]["content"] for request in server.requests]
    assert asked and all(text.startswith("say hello") for text in asked)
    assert len(set(asked)) == 3
    with AnswerCache(tmp_path / "run" / "live.db") as answers:
        assert len(answers) == len(asked)


def test_an_interrupted_run_says_how_to_go_on_and_goes_on(
    base_folder: Path,
    outcomes: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from training.warm_start import stage as warm_start_stage

    def command(output: Path, *more: str) -> int:
        return main(
            [
                "--config", str(file), f"outcomes={outcomes}", f"output={output}",
                f"base.path={base_folder}", *more,
            ]
        )  # fmt: skip

    file = tmp_path / "run.yaml"
    file.write_text(
        "min_prompts: 10\nbase: {dtype: float32, model_id: tiny}\n"
        "warm_start: {frozen_layers: 1, epochs: 2, batch_size: 4, lora_rank: 4}\n"
    )
    assert command(tmp_path / "whole") == 0

    def pressed(*args: Any, callbacks: list[Any], **options: Any) -> None:
        class Press(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
                if state.global_step == 3:
                    signal.raise_signal(signal.SIGINT)

        train_slots(*args, callbacks=[Press(), *callbacks], **options)

    with monkeypatch.context() as patch:
        patch.setattr(warm_start_stage, "train_slots", pressed)
        assert command(tmp_path / "cut") == 130
    assert "stopped after step 4; --resume goes on" in capsys.readouterr().err
    assert not (tmp_path / "cut" / "checkpoint").exists()

    assert command(tmp_path / "cut", "--resume") == 0

    assert "warm start: 5/" in capsys.readouterr().err
    cut, whole = (
        read_manifest(tmp_path / name / "checkpoint").metrics["held_out_log_loss"]
        for name in ("cut", "whole")
    )
    assert cut == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"outcomes": "nowhere"}, "outcomes is 'nowhere'"),
        ({"min_prompts": 10_000}, r"at least 10000"),
        ({"base": BaseConfig(path="")}, "base.path is empty"),
        ({"base": BaseConfig(path="none.gguf")}, "does not exist"),
        ({"base": BaseConfig(path="./nowhere")}, "'./nowhere' does not exist"),
        ({"data": DataConfig(models=("nobody",))}, "nobody"),
        ({"data": DataConfig(train_share=1.0)}, "train_share"),
        ({"warm_start": WarmStartConfig(frozen_layers=3)}, "the base has 3 layers"),
        ({"warm_start": WarmStartConfig(method="full", frozen_layers=1)}, "weights=merged"),
        ({"sampling": Sampling(permute=True)}, "recipe=plain"),
        (
            {"trainer": TrainerConfig(gradient_checkpointing=True)},
            "gradient_checkpointing needs warm_start.recipe=plain",
        ),
        ({"trainer": TrainerConfig(device="cuda")}, "no usable GPU"),
        ({"trainer": TrainerConfig(mixed_precision="bf16")}, "base.dtype=bfloat16"),
        ({"trainer": TrainerConfig(report_to="wandb")}, "pip install wandb"),
        ({"trainer": TrainerConfig(accumulation=3)}, "batch_size is 4"),
    ],
)
def test_what_can_not_work_is_found_before_anything_expensive(
    base_folder: Path, outcomes: Path, tmp_path: Path, change: dict[str, object], said: str
) -> None:
    bad = dataclasses.replace(config(base_folder, outcomes, tmp_path / "run"), **change)  # type: ignore[arg-type]

    with pytest.raises(ConfigurationError, match=said):
        plan(bad)
    assert not (tmp_path / "run").exists()


def test_a_pool_that_lacks_a_card_of_the_table_is_refused(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    pool = tmp_path / "pool.yaml"
    text = "default: {}\nmodels:\n{}"
    card = "  - {{name: {}, model: m, base_url: 'http://127.0.0.1:1/v1'}}\n"
    both = card.format("cheap_1") + card.format("dear")
    first = config(base_folder, outcomes, tmp_path / "run")

    pool.write_text(text.format("dear", card.format("dear")))
    with pytest.raises(ConfigurationError, match="no card 'cheap_1'"):
        plan(dataclasses.replace(first, pool=str(pool)))
    with pytest.raises(ConfigurationError, match="can't be used"):
        plan(dataclasses.replace(first, pool=str(tmp_path / "none.yaml")))
    pool.write_text(text.format("dear", both))
    plan(dataclasses.replace(first, pool=str(pool)))


def test_several_turns_of_tools_need_recorded_answers(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    lean = tmp_path / "lean"
    lean.mkdir()
    pl.read_parquet(outcomes / "outcomes.parquet").drop("response").write_parquet(
        lean / "outcomes.parquet"
    )
    pl.read_parquet(outcomes / "prompts.parquet").write_parquet(lean / "prompts.parquet")
    first = config(base_folder, lean, tmp_path / "run")

    work = plan(dataclasses.replace(first, tools=ToolsConfig(turns=3)))

    with pytest.raises(ConfigurationError, match="no column 'response'"):
        read_answers(work)


def test_a_dry_run_prints_the_plan_with_sizes_and_writes_nothing(
    base_folder: Path, outcomes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("min_prompts: 10\nwarm_start: {frozen_layers: 1}\ngrpo: {steps: 5}\n")
    options = [
        "--config", str(file), "--dry-run", f"outcomes={outcomes}",
        f"output={tmp_path / 'out'}", f"base.path={base_folder}",
    ]  # fmt: skip

    assert main(options) == 0

    said = capsys.readouterr().err
    for word in ("to learn from", "MB on disk", "about 1 s", "GB", "5 steps of 4 prompts × 8"):
        assert word in said
    assert not (tmp_path / "out").exists()
    assert main([*options, "weights=everything"]) == 2


def test_an_estimate_grows_with_what_is_trained(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    first = config(base_folder, outcomes, tmp_path / "run")
    small = estimate(plan(first))
    every = dataclasses.replace(first.warm_start, recipe="plain", frozen_layers=0, epochs=30)
    large = estimate(plan(dataclasses.replace(first, warm_start=every)))

    assert small.warm_start_s is not None and large.warm_start_s is not None
    assert large.warm_start_s > small.warm_start_s
    assert small.disk_mb is not None and large.disk_mb is None
    assert "LoRA rank 4" in describe(plan(first))


def test_log_loss_of_certain_and_right_is_nothing() -> None:
    assert log_loss(np.array([[50.0, -50.0]]), np.array([[1.0, 0.0]])) < 1e-9
    assert log_loss(np.zeros((1, 2)), np.ones((1, 2))) == pytest.approx(np.log(2))


def test_the_manifest_holds_no_path_of_this_machine(
    base_folder: Path, outcomes: Path, tmp_path: Path
) -> None:
    quick = dataclasses.replace(
        config(base_folder, outcomes, tmp_path / "run"), grpo=GrpoSettings(steps=0)
    )
    run_plan(plan(quick), lambda *_: None)

    data = read_manifest(tmp_path / "run" / "checkpoint").to_dict()
    data.pop("command")
    for folder in (base_folder, outcomes, tmp_path):
        assert str(folder) not in str(data)
