"""A run whose family head is told to have all of the say: no base, and without GRPO no torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from training.data.inputs import LogPlan, Plan, lesson_settings
from training.data.lesson import lesson_of
from training.processes import is_main
from training.stage.progress import Progress
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.fitting.family_head import export_head
from xrouter_lg.fitting.from_log import FromLog, learned_from, write_from_log
from xrouter_lg.fitting.head_checkpoint import fit_head, write_head
from xrouter_lg.judge.one_sided import conclude_from_log


def run_head(work: Plan | LogPlan, progress: Progress, *, resume: bool = False) -> Manifest | None:
    """The manifest of the checkpoint, the same that ``xrouter train`` writes; None in a
    process that helps the main one.

    Raises:
        ConfigurationError: the prompts can't be told apart.
        TrainingInterruptedError: a signal asked GRPO for the stop; ``resume`` goes on.
    """
    if not is_main():
        return None
    work.folder.mkdir(parents=True, exist_ok=True)
    checkpoint, how = work.folder / "checkpoint", lesson_settings(work.config)
    if isinstance(work, LogPlan):
        progress("fit", 0, 1, "")
        learned, said = _reinforced(work, learned_from(work.table, how), progress, resume)
        progress("judge", 0, 1, "")
        verdict = conclude_from_log(learned, cost_weight=work.config.cost_weight)
        written = write_from_log(checkpoint, learned, how, verdict=verdict.to_json(), metrics=said)
    else:
        lesson, head, said = lesson_of(work), None, {}
        if work.config.grpo.steps:
            fit_head(lesson)  # refuses what can't be told apart, in its words
            start = learned_from(lesson.train, how)
            learned, said = _reinforced(work, start, progress, resume)
            head = export_head(learned.features, learned.model, learned.table.cost, lesson.cards)
        progress("judge", 0, 1, "")
        written = write_head(checkpoint, lesson, head, metrics=said)
    progress("judge", 1, 1, "")
    return written


def _reinforced(
    work: Plan | LogPlan, learned: FromLog, progress: Progress, resume: bool
) -> tuple[FromLog, dict[str, Any]]:
    """What GRPO makes of it, if asked for, and the metrics that say so."""
    if not work.config.grpo.steps:
        return learned, {}
    from training.head.stage import reinforce_head  # imports torch

    learned, gain = reinforce_head(learned, work.config, work.folder, progress, resume=resume)
    return learned, {"grpo": dataclasses.asdict(gain)}
