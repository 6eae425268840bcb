"""What watches a trainer: progress, the best state so far, and an orderly stop."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback

from training.processes import agreed, anyone, is_main
from xrouter_lg.files import write_json

Log = dict[str, float]


class Report(TrainerCallback):
    """Keeps the trainer's log, numbers only, and passes each step on."""

    def __init__(self, on_step: Callable[[int, int, Log], None] | None = None) -> None:
        self.log: list[Log] = []
        self._on_step = on_step

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A run that is resumed has its history in the trainer's state.
        self.log = [numbers(entry) for entry in state.log_history if "loss" in entry]

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        logs: Mapping[str, Any] = given["logs"]
        if "loss" not in logs:
            return
        entry = {**numbers(logs), "step": float(state.global_step)}
        self.log.append(entry)
        if self._on_step is not None and is_main():
            self._on_step(state.global_step, state.max_steps, entry)


class KeepBest(TrainerCallback):
    """Validates every ``every`` steps and at the end, keeps the best state, and stops training
    after ``patience`` validations that were no better.

    ``measure`` gives figures, of which ``metric`` decides; ``save`` writes the current state.
    ``first`` measures the state that training starts from too.
    """

    def __init__(
        self,
        measure: Callable[[], Log],
        save: Callable[[], None],
        *,
        metric: str,
        higher_is_better: bool,
        every: int,
        patience: int,
        file: Path,
        first: bool = False,
    ) -> None:
        self._measure, self._save, self._metric = measure, save, metric
        self._sign = 1.0 if higher_is_better else -1.0
        self._every, self._patience, self._file = max(1, every), patience, file
        self._first = first
        self.history: list[Log] = []

    @property
    def best(self) -> Log | None:
        """The best validation so far; the earliest of equals."""
        found: Log | None = None
        for entry in self.history:
            if found is None or self._value(entry) > self._value(found):
                found = entry
        return found

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.history = []
        if state.global_step and self._file.is_file():
            known: list[Log] = json.loads(self._file.read_text())
            self.history = [entry for entry in known if entry["step"] <= state.global_step]
        elif self._first and not state.global_step:
            self._validate(0, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        if step % self._every == 0 or step >= state.max_steps:
            self._validate(step, control)

    def _validate(self, step: int, control: Any) -> None:
        before = self.best
        entry = agreed({**self._measure(), "step": float(step)})
        self.history.append(entry)
        if before is None or self._value(entry) > self._value(before):
            if is_main():
                self._save()
        elif len(self.history) - 1 - self.history.index(before) >= self._patience:
            control.should_training_stop = True
        if is_main():
            write_json(self._file, self.history)

    def _value(self, entry: Log) -> float:
        value = self._sign * entry[self._metric]
        return -math.inf if math.isnan(value) else value


class StopOnSignal(TrainerCallback):
    """Saves and ends training after the step in which :func:`orderly_stop` saw a signal."""

    def __init__(self, asked: threading.Event) -> None:
        self._asked = asked
        self.stopped_at: int | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if anyone(self._asked.is_set()) and state.global_step < state.max_steps:
            self.stopped_at = state.global_step
            control.should_save = control.should_training_stop = True


@contextmanager
def orderly_stop() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C (or SIGTERM) sets; the second one acts as usual.

    Signals reach the main thread only: elsewhere the event is never set.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before[signal.Signals(number)])

    for name in before:
        signal.signal(name, ask)
    try:
        yield asked
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def numbers(entry: Mapping[str, Any]) -> Log:
    """The finite numbers of a trainer's log entry."""
    return {
        key: float(value)
        for key, value in entry.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }


def resumed(folder: Path, resume: bool) -> str | None:
    """What a trainer resumes from, as it takes it; None to begin anew."""
    found = last_checkpoint(folder) if resume else None
    return None if found is None else str(found)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint that a trainer left in its folder."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").exists()]
    return max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
