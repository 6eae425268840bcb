"""A run's table as what a checkpoint is fitted on (:mod:`xrouter_lg.fitting.lesson`)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from training.config.run import RunConfig
from training.data.inputs import Plan
from xrouter_lg.fitting.lesson import Lesson
from xrouter_lg.pool.card import normalise_name


def lesson_of(work: Plan) -> Lesson:
    """Both halves of the run's table, and what is known of its cards."""
    return Lesson.of(
        work.table,
        work.table.rows(work.train),
        work.table.rows(work.test),
        pool=work.config.pool,
        split_seed=work.config.data.split_seed,
        near=work.near,
        config=_public(work.config),
        **_pools_and_left_out(work),
    )


def _pools_and_left_out(work: Plan) -> dict[str, Any]:
    """What the manifest records for the judge to find the same pools and sides again."""
    table, found = work.table, dict[str, Any]()
    if table.declared:
        found["pools"] = [
            {"sources": list(pool.sources), "cards": [normalise_name(m) for m in pool.models]}
            for pool in table.pools()
        ]
    if len(work.left_out):
        found["left_out"] = sorted({table.families[i] for i in work.left_out})
        found["left_out_prompts"] = len(work.left_out)
    return found


def _public(config: RunConfig) -> dict[str, Any]:
    """The config without this machine's paths, nor a password in a store's URL."""
    data = dataclasses.asdict(config)
    for where, names in (
        (data, ("outcomes", "output", "pool", "traces")),
        (data["base"], ("path",)),
        (data["collect"], ("verifiers", "references")),
    ):
        for name in names:
            where[name] = Path(where[name]).name
    # As it will be read back: tuples become lists.
    public: dict[str, Any] = json.loads(json.dumps(data))
    return public
