"""What is killed again and again, and how: at chosen steps on files, and at any moment."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.forked import Forks

IMPORTS = (
    "aiosqlite, langchain_openai, langsmith, rich.progress, sqlalchemy, typer, polars, "
    "tests.faults.crash.jobs, xrouter_lg.cli.train, xrouter_lg.learn.run, xrouter_lg.langsmith.pull"
)
_LONGEST_S = 120.0


class Scene:
    """A job in a process of its own, and what has to hold when that process is killed."""

    job: str
    """``module:function``."""

    def __init__(self, folder: Path, dice: random.Random) -> None:
        self.folder, self.dice = folder, dice

    @contextmanager
    def running(self) -> Iterator[None]:
        """With whatever the job talks to."""
        yield

    def arguments(self) -> list[str]:
        """Of the job, as it is started next."""
        raise NotImplementedError

    def killed(self) -> None:
        """Look at what the killed process left: nothing half-written loads."""
        raise NotImplementedError

    def finished(self) -> None:
        """Look at what a process that came to its end has made of all that."""
        raise NotImplementedError

    def anew(self) -> None:
        """Begin again after an end: what there is to do."""


def torment(scene: Scene, forks: Forks, kills: int) -> list[str]:
    """Kill the scene's job ``kills`` times, every second time at a step on its files, and let it
    come to its end every ten and at last. Where each kill fell, in words."""
    steps, seconds = 40, 1.0
    fell: list[str] = []
    while len(fell) < kills:
        at = scene.dice.randint(1, steps) if len(fell) % 2 else 0
        after = scene.dice.uniform(0.0, seconds)
        begun = time.monotonic()
        pid = forks.start(scene.job, *scene.arguments(), dies_at=at, within=str(scene.folder))
        if not at and _lives(pid, begun + after):
            _kill(pid)
        code = forks.wait()
        took = time.monotonic() - begun
        assert took < _LONGEST_S
        if code != -signal.SIGKILL:  # it came to its end first: aim earlier
            _ended_well(code, scene, forks)
            steps = max(4, steps * 2 // 3) if at else steps
            seconds = seconds if at else max(0.1, min(seconds, took) * 0.9)
            scene.finished()
            scene.anew()
            continue
        fell.append(f"step {at}" if at else f"{after:.3f} s")
        if at:
            steps = min(400, steps + 2)
        else:
            seconds = min(30.0, seconds * 1.1)
        scene.killed()
        if len(fell) % 10 == 0:
            _finish(scene, forks)
            scene.anew()
    if kills % 10:
        _finish(scene, forks)
    return fell


def _finish(scene: Scene, forks: Forks) -> None:
    code = forks.run(scene.job, *scene.arguments())
    _ended_well(code, scene, forks)
    scene.finished()


def _ended_well(code: int, scene: Scene, forks: Forks) -> None:
    assert code == 0, f"{scene.job} ended with {code}: {forks.errors.read_text()[-3000:]}"


def _lives(pid: int, until: float) -> bool:
    """Whether the process is still there at that moment."""
    while (left := until - time.monotonic()) > 0:
        if not _is_there(pid):
            return False
        time.sleep(min(left, 0.005))
    return _is_there(pid)


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
