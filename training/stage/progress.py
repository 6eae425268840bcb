"""Progress of a run: bars on a terminal, a line every few seconds where there is none."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from xrouter_lg.errors import XRouterError

Progress = Callable[[str, int, int, str], None]
"""Called with a stage, how much is done, how much there is, and a word on how it goes."""


class TrainingInterruptedError(XRouterError, RuntimeError):
    """Training was asked to stop; what is done has been saved."""


@contextmanager
def shown(console: Console, *, every_s: float) -> Iterator[Progress]:
    """A progress function that draws on ``console``."""
    with warnings.catch_warnings():
        # Transformers 5 warns of a name that it uses itself, once a trainer.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        if console.is_terminal:
            with _bars(console) as progress:
                yield progress
        else:
            yield _Lines(console, every_s)


@contextmanager
def _bars(console: Console) -> Iterator[Progress]:
    with Bars(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.completed:>5}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, whole: int, note: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=whole, note="")
            bars.update(tasks[stage], completed=done, total=whole, note=note)

        yield show


class _Lines:
    """One line when a stage begins and ends, and one every ``every_s`` seconds between."""

    def __init__(self, console: Console, every_s: float) -> None:
        self._console, self._every_s = console, every_s
        self._stage, self._said, self._begun, self._begun_at = "", 0.0, 0.0, 0

    def __call__(self, stage: str, done: int, whole: int, note: str) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._said = stage, float("-inf")
            self._begun, self._begun_at = now, done
        if done < whole and now - self._said < self._every_s:
            return
        self._said = now
        left = ""
        if self._begun_at < done < whole:
            left = f", {_duration((now - self._begun) / (done - self._begun_at) * (whole - done))}"
            left += " left"
        text = f"{stage}: {done}/{whole}{left}" + (f"; {note}" if note else "")
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
