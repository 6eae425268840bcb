"""A run's table as what a checkpoint is fitted on (:mod:`xrouter_lg.fitting.lesson`)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from training.config.run import RunConfig
from training.data.inputs import Plan
from xrouter_lg.fitting.held_out import PoolPart, whole
from xrouter_lg.fitting.lesson import Lesson, card_prices, mean_output_tokens
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.pool.pool import normalise_name


def lesson_of(work: Plan) -> Lesson:
    """Both halves of the run's table, and what is known of its cards."""
    table = work.table
    train, test = table.rows(work.train), table.rows(work.test)
    cards = tuple(normalise_name(name) for name in table.models)
    return Lesson(
        train=train,
        test=test,
        parts=_parts(train, test),
        cards=cards,
        c_ref_usd=train.reference_cost(),
        best_fixed=normalise_name(_best_fixed(train)),
        output_tokens_M=mean_output_tokens(train),
        prices=card_prices(work.config.pool, cards),
        data={
            "fingerprint": table.fingerprint(),
            "train_prompts": len(train),
            "test_prompts": len(test),
            "split": "random",
            "split_seed": work.config.data.split_seed,
            "families": sorted(set(train.families)),
            "near_duplicates": work.near.to_dict(),
            **_pools_and_left_out(work),
        },
        config=_public(work.config),
    )


def _parts(train: OutcomeGrid, test: OutcomeGrid) -> tuple[PoolPart, ...]:
    if not test.declared:
        return whole(train, test)
    return tuple(
        PoolPart(pool.sources, learned, own, pool.rows, test.columns(pool.models))
        for learned, own, pool in zip(train.parts(), test.parts(), test.pools(), strict=True)
    )


def _best_fixed(train: OutcomeGrid) -> str:
    """The best fixed model of the run, with several pools that of the largest."""
    part = max(train.parts(), key=len)
    return part.models[part.best_fixed()]


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
