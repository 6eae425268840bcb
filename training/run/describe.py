"""A run in words, before anything expensive begins."""

from __future__ import annotations

import numpy as np

from training.config.run import RunConfig
from training.data.inputs import LogPlan, Plan

_ALONE = "family head  alone (family_head_share 1): no language model is trained or read"


def describe(work: Plan | LogPlan) -> str:
    """The plan of a run in words, with what it will take."""
    config = work.config
    if isinstance(work, LogPlan):
        scored = int(np.isfinite(work.table.score).any(1).sum())
        lines = [
            f"outcomes     {config.outcomes}, a log: {len(work.table)} prompts, {scored} with a "
            "score; all are learned from",
            f"models       {len(work.table.models)}: {', '.join(work.table.models)}",
            _ALONE,
        ]
        return "\n".join([*lines, *_grpo(config), f"run folder   {work.folder}"])
    lines = [
        f"outcomes     {config.outcomes}",
        f"prompts      {len(work.fit)} to learn from, {len(work.validation)} to validate on, "
        f"{len(work.test)} held out"
        + (f", {len(work.left_out)} of families left out" if len(work.left_out) else ""),
        f"held out     {work.near}",
        f"models       {len(work.table.models)}: {', '.join(work.table.models)}",
        *_pools(work),
    ]
    if config.trains_model:
        from training.run.estimate import describe_model  # which imports torch

        lines += describe_model(work)
    else:
        lines += [_ALONE, *_grpo(config)]
    return "\n".join([*lines, f"run folder   {work.folder}"])


def _grpo(config: RunConfig) -> list[str]:
    """GRPO of the head, if asked for."""
    grpo = config.grpo
    if not grpo.steps:
        return []
    return [
        f"grpo         of the head: {grpo.steps} steps of {grpo.prompts_per_step} prompts × "
        f"{grpo.generations}; kept only where its gain is shown"
    ]


def _pools(work: Plan) -> list[str]:
    """A line for each pool, and one for the blocks they are read in."""
    table, cut = work.table, work.cut
    if not table.declared:
        return []
    lines = [
        f"pool         {', '.join(pool.sources)}: {len(pool.models)} models, "
        f"{len(np.intersect1d(pool.rows, work.train))} prompts to learn from"
        for pool in table.pools()
    ]
    read = cut.read_N_K.sum(0)
    each = ", ".join(f"{size} cards read for {n}" for size, n in zip(cut.sizes, read, strict=True))
    return [*lines, f"blocks       {len(cut.sizes)}: {each} prompts"]
