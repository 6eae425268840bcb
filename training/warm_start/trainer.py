"""TRL's SFTTrainer on soft targets: success log-odds of slots instead of next tokens.

A row is a prompt by number, what each letter starts from and what it should say. The loss is the
mean binary cross-entropy of sigmoid(contrast - centre + prior) against the targets; letters
without a target (NaN) are left out. Everything else is TRL's: optimiser, schedule, clipping,
accumulation, processes, checkpoints, reports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from training.config.trainer import TrainerConfig
from training.config.warm_start import WarmStartConfig
from training.model.reading import Reading, answering
from training.model.slots import SlotModel
from training.stage.callbacks import resumed
from training.warm_start.rows import Samples


class SlotSFTTrainer(SFTTrainer):
    """Use within :func:`training.model.reading.answering`, or by :func:`train_slots`."""

    def __init__(self, slot: SlotModel, reading: Reading, **options: Any) -> None:
        self._slot, self._reading = slot, reading
        super().__init__(model=slot.model, **options)
        # It would print every log entry to standard output.
        self.remove_callback(PrinterCallback)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        contrast_B_L = model(contrast=True, **{name: inputs[name] for name in self._reading.fields})
        z_B_L = self._slot.z(contrast_B_L, inputs["prior"])
        loss = slot_loss(z_B_L, inputs["target"])
        return (loss, {"z": z_B_L}) if return_outputs else loss


def slot_loss(z_B_L: Tensor, target_B_L: Tensor) -> Tensor:
    """Mean binary cross-entropy (nats) over the letters that have a target."""
    known = torch.isfinite(target_B_L)
    return functional.binary_cross_entropy_with_logits(z_B_L[known], target_B_L[known])


def train_slots(
    slot: SlotModel,
    reading: Reading,
    samples: Samples,
    config: WarmStartConfig,
    *,
    tokenizer: Any,
    folder: Path,
    trainer: TrainerConfig | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    resume: bool = False,
) -> None:
    """Train ``slot`` in place. ``folder`` gets the trainer's checkpoints; ``resume`` goes on from
    the newest of them."""
    how = trainer or TrainerConfig(device="cpu")
    with answering(slot, reading):
        SlotSFTTrainer(
            slot,
            reading,
            args=SFTConfig(**arguments(config, how, folder)),
            train_dataset=Dataset.from_dict({"row": list(range(len(samples)))}),
            data_collator=_Collator(reading, samples),
            # TRL may give it a padding token; ours must stay as it was hashed.
            processing_class=deepcopy(tokenizer),
            callbacks=list(callbacks),
        ).train(resume_from_checkpoint=resumed(folder, resume))


def arguments(config: WarmStartConfig, how: TrainerConfig, folder: Path) -> dict[str, Any]:
    """Arguments of TRL's ``SFTConfig``."""
    return {
        **shared_arguments(config, how, folder),
        # Rows are numbers of prompts: there is nothing for TRL to tokenise.
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }


def shared_arguments(config: WarmStartConfig, how: TrainerConfig, folder: Path) -> dict[str, Any]:
    """Those that do not depend on the codec."""
    ends_above_zero = config.schedule == "cosine_with_min_lr"
    return {
        **how.arguments(folder, seed=config.seed),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": how.per_device(config.batch_size, "warm_start.batch_size"),
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": config.schedule,
        "lr_scheduler_kwargs": {"min_lr_rate": 0.1} if ends_above_zero else None,
        "warmup_steps": config.warmup_share,
        "weight_decay": 0.01,
        "max_grad_norm": config.max_grad_norm,
        # What is cut would teach half a call.
        "max_length": None,
    }


def steps_of(samples: int, config: WarmStartConfig) -> tuple[int, int]:
    """Optimiser steps per epoch, and in all."""
    epoch = math.ceil(samples / config.batch_size)
    return epoch, epoch * config.epochs


class _Collator:
    """Rows to the tensors of one pass."""

    def __init__(self, reading: Reading, samples: Samples) -> None:
        self._reading, self._samples = reading, samples

    def __call__(self, rows: Sequence[Mapping[str, int]]) -> dict[str, Tensor]:
        at = np.array([row["row"] for row in rows])
        # The reading's tensors come first: accelerate counts a batch by the first one.
        return {
            **self._reading.inputs(self._samples.prompt_N[at]),
            "prior": torch.from_numpy(self._samples.prior_N_L[at]).float(),
            "target": torch.from_numpy(self._samples.target_N_L[at]).float(),
        }
