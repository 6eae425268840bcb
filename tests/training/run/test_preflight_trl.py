"""GPU configs against the installed versions, on a machine without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from training.config.run import load_config
from training.run.preflight_trl import ACCELERATE, CONFIGS, CheckResult, check_arguments
from training.train import main

pytestmark = pytest.mark.train


def found(
    config: str, *overrides: str, accelerate: Path | None = ACCELERATE
) -> dict[str, CheckResult]:
    findings = check_arguments(load_config(CONFIGS / config, overrides), accelerate)
    return {finding.what: finding for finding in findings}


@pytest.mark.parametrize("config", ["single_gpu.yaml", "multi_gpu.yaml"])
def test_the_shipped_gpu_configs_fit_the_installed_versions(config: str) -> None:
    findings = found(config)

    assert [f for f in findings.values() if f.outcome == "wrong"] == []
    assert findings["TRL SFTConfig"].outcome == findings["TRL GRPOConfig"].outcome == "ok"
    assert "4 processes" in findings["accelerate accelerate_zero2.yaml"].detail


def test_the_multi_gpu_config_hands_its_prompts_to_a_vllm_server() -> None:
    findings = found("multi_gpu.yaml")

    assert "--tensor_parallel_size 1" in findings["TRL vllm-serve"].detail
    # Not installed on a machine without a GPU, and then not called right.
    assert any("vllm" in what for what in findings)


@pytest.mark.parametrize(
    "override", ["grpo.generations=16", "tools.vllm=colocate", "tools.vllm=none", "codec=slots"]
)
def test_variants_of_it_can_be_built(override: str) -> None:
    assert found("multi_gpu.yaml", override)["TRL GRPOConfig"].outcome == "ok"


def test_an_argument_that_trl_does_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from training.warm_start import trainer as sft

    arguments = sft.arguments
    monkeypatch.setattr(sft, "arguments", lambda *a, **k: {**arguments(*a, **k), "no_such": 1})

    finding = found("single_gpu.yaml")["TRL SFTConfig"]

    assert finding.outcome == "wrong"
    assert "knows no no_such" in finding.detail


def test_a_combination_that_trl_refuses_is_reported_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from training.grpo import trainer as grpo

    arguments = grpo.arguments
    monkeypatch.setattr(
        grpo, "arguments", lambda *a, **k: {**arguments(*a, **k), "num_generations": 7}
    )

    finding = found("single_gpu.yaml")["TRL GRPOConfig"]

    assert finding.outcome == "wrong"
    assert "divisible" in finding.detail


@pytest.mark.parametrize(
    ("change", "what", "said"),
    [
        ({"num_procs": 2}, "accelerate", "num_procs"),
        ({"deepspeed_config": {"zero_stag": 2}}, "DeepSpeed", "zero_stag"),
        ({"deepspeed_config": {"zero_stage": 3}}, "DeepSpeed", "use 2"),
    ],
)
def test_a_launch_file_that_accelerate_does_not_know_is_reported(
    tmp_path: Path, change: dict[str, object], what: str, said: str
) -> None:
    file = tmp_path / "launch.yaml"
    file.write_text(yaml.safe_dump({**yaml.safe_load(ACCELERATE.read_text()), **change}))

    finding = found("multi_gpu.yaml", accelerate=file)[f"{what} launch.yaml"]

    assert finding.outcome == "wrong"
    assert said in finding.detail


def test_the_command_prints_the_findings_and_needs_neither_data_nor_gpu(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--config", str(CONFIGS / "multi_gpu.yaml"), "--check-arguments"]) == 0

    said = capsys.readouterr().out
    assert "TRL GRPOConfig" in said and "wrong" not in said


def test_without_a_gpu_the_run_itself_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    config = CONFIGS / "single_gpu.yaml"

    assert main(["--config", str(config), f"outcomes={tmp_path}", "--dry-run"]) == 2
