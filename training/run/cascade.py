"""A run of plans of several calls: no base, no torch."""

from __future__ import annotations

from pathlib import Path

from training.data.inputs import Plan, TablePlan, lesson_settings
from training.processes import is_main
from training.stage.progress import Progress
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.fitting.cascade_checkpoint import train_cascade


def run_cascade(work: Plan | TablePlan, progress: Progress) -> Manifest | None:
    """The manifest of the checkpoint, the same that ``xrouter train --cascade`` writes; None in a
    process that helps the main one.

    Raises:
        ConfigurationError: the table keeps no responses, or is too small.
    """
    if not is_main():
        return None
    config = work.config
    work.folder.mkdir(parents=True, exist_ok=True)
    progress("fit", 0, 1, "")
    written = train_cascade(
        Path(config.outcomes),
        work.folder / "checkpoint",
        lesson_settings(config),
        turns=config.cascade_turns,
    )
    progress("fit", 1, 1, "")
    return written
