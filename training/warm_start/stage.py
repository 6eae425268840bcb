"""The warm start as a stage of a run."""

from __future__ import annotations

from functools import partial

import numpy as np

from training.data.inputs import Plan
from training.model.base import Base
from training.model.reading import Reading, predict_rows
from training.model.slots import SlotModel
from training.stage.callbacks import KeepBest, Log
from training.stage.plots import plot_warm_start
from training.stage.progress import Progress
from training.stage.resume import Stage, digest_of, restore_state, save_state
from training.stage.supervise import supervise
from training.warm_start.rows import Samples
from training.warm_start.targets import (
    card_samples,
    log_loss,
    measure_centre,
    permuted_samples,
    soft_targets,
)
from training.warm_start.trainer import steps_of, train_slots
from xrouter_lg.figures.routed_utility import utility
from xrouter_lg.prompts import slots


def warm_start(
    work: Plan,
    slot: SlotModel,
    base: Base,
    reading: Reading,
    progress: Progress,
    *,
    resume: bool = False,
) -> None:
    """Train the model, or load what an earlier run with these settings left.

    Raises:
        TrainingInterruptedError: a signal asked for the stop; ``resume`` goes on.
    """
    config, trainer, table = work.config.warm_start, work.config.trainer, work.table
    stage = Stage(work.folder, "warm_start", stage_key(work, base))
    if stage.done:
        restore_state(slot, stage.weights)
        return
    everyone = np.sort(np.concatenate([work.fit, work.validation]))
    measure_centre(slot, reading, everyone, config.seed)
    samples = _samples(work, slot, reading)
    half = table.rows(work.train)
    validation = table.rows(work.validation)

    def measure() -> Log:
        z = predict_rows(slot, reading, work.validation)
        found = utility(z, validation, np.nanmean(half.cost, axis=0), half.reference_cost())
        return {"log_loss": log_loss(z, validation.score), "utility": found}

    per_epoch, _ = steps_of(len(samples), config)
    best = KeepBest(
        measure,
        lambda: save_state(slot, stage.weights),
        metric=config.stop_on,
        higher_is_better=config.stop_on == "utility",
        every=-(-per_epoch // trainer.validations),
        patience=trainer.patience,
        file=stage.folder / "validation.json",
    )
    train = partial(train_slots, slot, reading, samples, config, tokenizer=base.tokenizer)
    supervise(
        stage,
        best,
        train,
        trainer=trainer,
        resume=resume,
        progress=progress,
        note=loss_of,
        plot=plot_warm_start,
        restore=partial(restore_state, slot),
    )


def loss_of(entry: Log) -> str:
    """One line on how a step went."""
    return f"loss {entry['loss']:.4f}"


def stage_key(work: Plan, base: Base) -> str:
    """What the warm start depends on."""
    return digest_of(
        [
            work.config.warm_start,
            work.config.data,
            work.config.base.dtype,
            base.identity.sha256,
            *work.prefixes,
            work.table.fingerprint(),
        ]
    )


def _samples(work: Plan, slot: SlotModel, reading: Reading) -> Samples:
    table, config = work.table, work.config.warm_start
    families = [table.families[i] for i in work.fit]
    target = soft_targets(table.score[work.fit], families, config.outcome_share)
    if config.permute:
        return permuted_samples(
            slot,
            reading,
            [work.questions[i] for i in work.fit],
            target,
            lambda order: slots.render_prefix([work.lines[m] for m in order]),
            np.random.default_rng(config.seed),
        )
    return card_samples(slot, reading, work.fit, target)
