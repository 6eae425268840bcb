"""Settings that both trainers share, and the TRL arguments that they become."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from training.config.settings import SETTINGS, Count
from training.processes import process_count
from xrouter_lg.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, config=SETTINGS)
class TrainerConfig:
    """Where and how the trainers run.

    Raises:
        ValueError: a count below 1.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: Literal["none", "bf16"] = "none"
    """Autocast around the forward pass, for weights kept in float32 on a GPU."""
    gradient_checkpointing: bool = False
    accumulation: Count = 1
    """Passes per optimiser step: the same step in less memory."""
    save_every: Count = 25
    """Optimiser steps between two points that ``--resume`` can go on from."""
    validations: Count = 1
    """Validations per epoch of the warm start."""
    patience: Count = 1
    """Validations of the warm start without an improvement before it stops."""
    report_to: Literal["none", "trackio", "wandb", "tensorboard"] = "none"
    """Where TRL reports to besides the run folder."""
    report_every_s: float = 10.0
    """Seconds between two lines of progress where there is no terminal."""

    @property
    def use_cpu(self) -> bool:
        """Whether training runs on the CPU, by choice or for want of a GPU."""
        import torch  # takes seconds, and reading a config must not

        return self.device == "cpu" or not torch.cuda.is_available()

    def arguments(self, folder: Path, *, seed: int) -> dict[str, Any]:
        """What every TRL config of ours is built with."""
        from transformers import TrainingArguments

        known = {field.name for field in dataclasses.fields(TrainingArguments)}
        # Renamed in transformers 5; the old name warns on every run, and goes in 6.
        new, old = "activation_checkpointing", "gradient_checkpointing"
        return {
            "output_dir": str(folder),
            "run_name": folder.parent.name,
            "seed": seed,
            "report_to": self.report_to,
            "logging_steps": 1,
            "save_strategy": "steps",
            "save_steps": self.save_every,
            "save_total_limit": 1,
            "gradient_accumulation_steps": self.accumulation,
            (new if new in known else old): self.gradient_checkpointing,
            "use_cpu": self.use_cpu,
            "bf16": self.mixed_precision == "bf16",
            "remove_unused_columns": False,
            "dataloader_pin_memory": not self.use_cpu,
            # Every trained parameter takes part in every pass.
            "ddp_find_unused_parameters": False,
            "disable_tqdm": True,
        }

    def per_device(self, whole: int, name: str) -> int:
        """Rows per process and pass, of ``whole`` per optimiser step.

        Raises:
            ConfigurationError: they can't be dealt evenly.
        """
        parts = process_count() * self.accumulation
        if whole % parts:
            raise ConfigurationError(
                f"{name} is {whole}, which {process_count()} processes × trainer.accumulation "
                f"{self.accumulation} can't share evenly; make it a multiple of {parts}"
            )
        return whole // parts
