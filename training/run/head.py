"""A run whose family head is told to have all of the say: no base, no torch, no stage but one."""

from __future__ import annotations

from training.data.inputs import Plan
from training.data.lesson import lesson_of
from training.processes import is_main
from training.stage.progress import Progress
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.fitting.head_checkpoint import write_head


def run_head(work: Plan, progress: Progress) -> Manifest | None:
    """The manifest of the checkpoint, the same that ``xrouter train`` writes; None in a
    process that helps the main one.

    Raises:
        ConfigurationError: the prompts can't be told apart.
    """
    if not is_main():
        return None
    work.folder.mkdir(parents=True, exist_ok=True)
    progress("judge", 0, 1, "")
    written = write_head(work.folder / "checkpoint", lesson_of(work))
    progress("judge", 1, 1, "")
    return written
