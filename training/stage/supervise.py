"""One training stage under supervision: the best state is kept, a signal stops it in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.config.trainer import TrainerConfig
from training.processes import is_main, main_first
from training.stage.callbacks import KeepBest, Log, Report, StopOnSignal, orderly_stop
from training.stage.progress import Progress, TrainingInterruptedError
from training.stage.resume import Stage

_SAID = {"warm_start": "the warm start", "grpo": "GRPO"}


def supervise(
    stage: Stage,
    best: KeepBest,
    train: Callable[..., None],
    *,
    trainer: TrainerConfig,
    resume: bool,
    progress: Progress,
    note: Callable[[Log], str],
    plot: Callable[[Sequence[Log], Sequence[Log], Path], None],
    restore: Callable[[Path], Any],
) -> None:
    """Train, mark the stage done and ``restore`` the best state.

    ``train`` takes ``folder``, ``trainer``, ``callbacks`` and ``resume``; ``note`` says in a line
    how a step went; ``plot`` draws the log and the validations.

    Raises:
        TrainingInterruptedError: a signal asked for the stop; ``resume`` goes on.
    """
    shown = stage.name.replace("_", " ")
    report = Report(lambda step, steps, entry: progress(shown, step, steps, note(entry)))
    goes_on = stage.open_in_all(trainer.use_cpu, resume=resume)
    with orderly_stop() as asked:
        stop = StopOnSignal(asked)
        train(folder=stage.folder, trainer=trainer, callbacks=[best, report, stop], resume=goes_on)
    if stop.stopped_at is not None:
        raise TrainingInterruptedError(f"{_SAID[stage.name]} stopped after step {stop.stopped_at}")
    with main_first(trainer.use_cpu):
        if is_main():
            stage.close({"validation": best.history, "log": report.log, "at": time.time()})
            plot(report.log, best.history, stage.run_folder / f"{stage.name}.png")
    restore(stage.weights)
