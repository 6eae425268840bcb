"""Two processes on one machine, by ``accelerate launch`` on the CPU (gloo): one run.

Accelerate calls its launcher of several local processes ``--multi_gpu``; with
``trainer.device=cpu`` they share the CPU. (Its ``--cpu`` starts one process, or goes through MPI.)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.support.tiny_model import write_tiny_base
from xrouter_lg.checkpoints.folder import verify

pytestmark = pytest.mark.train

ROOT = Path(__file__).parents[3]


def write_outcomes(folder: Path) -> Path:
    folder.mkdir()
    prompts, rows = [], []
    for i in range(60):
        task = "sum" if i % 2 else "proof"
        key = {"source": "made", "task": task, "prompt_id": str(i)}
        prompts.append({**key, "prompt": f"{task} number {i}", "category": task})
        for model, cost, right in (("cheap", 1e-4, task == "sum"), ("dear", 1e-2, True)):
            rows.append({**key, "model": model, "score": float(right), "cost_usd": cost})
    pl.DataFrame(prompts).write_parquet(folder / "prompts.parquet")
    pl.DataFrame(rows).write_parquet(folder / "outcomes.parquet")
    return folder


def launch(processes: int, output: Path, base: Path, outcomes: Path) -> str:
    """What the run said."""
    config = output.with_suffix(".yaml")
    config.write_text(
        "min_prompts: 10\n"
        "base: {dtype: float32, model_id: tiny}\n"
        "trainer: {device: cpu}\n"
        "warm_start: {frozen_layers: 1, epochs: 1, batch_size: 8, lora_rank: 4}\n"
        "grpo: {steps: 2, prompts_per_step: 2, generations: 4}\n"
    )
    command = [
        sys.executable, "-m", "accelerate.commands.launch",
        *(["--multi_gpu"] if processes > 1 else ["--cpu"]),
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--num_processes", str(processes), "--num_cpu_threads_per_process", "1",
        "--main_process_port", "0", str(ROOT / "training" / "train.py"),
        "--config", str(config), f"outcomes={outcomes}", f"output={output}", f"base.path={base}",
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stderr


def test_two_processes_take_the_first_step_that_one_process_takes(tmp_path: Path) -> None:
    base = write_tiny_base(tmp_path / "base")
    outcomes = write_outcomes(tmp_path / "outcomes")
    logs = {}
    for processes in (1, 2):
        output = tmp_path / f"run{processes}"
        said = launch(processes, output, base, outcomes)
        assert ("CPU, 2 processes" in said) == (processes == 2)
        assert said.count("warm start   cached") == 1  # one process talks
        verify(output / "checkpoint")
        logs[processes] = {
            stage: json.loads((output / f"{stage}.json").read_text())["log"]
            for stage in ("warm_start", "grpo")
        }

    one, two = logs[1], logs[2]
    assert len(one["warm_start"]) == len(two["warm_start"])
    # Sums over the halves of a batch are rounded otherwise than sums over the whole.
    assert two["warm_start"][0]["loss"] == pytest.approx(one["warm_start"][0]["loss"], abs=1e-4)
    assert two["warm_start"][-1]["loss"] == pytest.approx(one["warm_start"][-1]["loss"], abs=1e-2)
    assert two["grpo"][0]["loss"] == pytest.approx(one["grpo"][0]["loss"], abs=1e-4)
    assert two["grpo"][0]["reward"] == pytest.approx(one["grpo"][0]["reward"], abs=1e-4)
    # Rounding has parted the two warm starts a little before this step.
    assert two["grpo"][0]["grad_norm"] == pytest.approx(one["grpo"][0]["grad_norm"], rel=0.1)
