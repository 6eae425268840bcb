"""A run's table as what a checkpoint is fitted on (:mod:`xrouter_lg.fitting.lesson`)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np

from training.config.run import RunConfig
from training.data.inputs import Plan
from training.data.pools import PoolTable, Table
from xrouter_lg.fitting.held_out import Part, whole
from xrouter_lg.fitting.lesson import Lesson, card_prices, mean_output_tokens
from xrouter_lg.pool.pool import normalise_name


def lesson_of(work: Plan) -> Lesson:
    """Both halves of the run's table, and what is known of its cards."""
    table = work.table
    train, test = table.rows(work.train), table.rows(work.test)
    cards = tuple(normalise_name(name) for name in table.models)
    pools = [] if not isinstance(table, PoolTable) else [(p.sources, p.models) for p in table.pools]
    return Lesson(
        train=train,
        test=test,
        parts=_parts(train, test),
        cards=cards,
        c_ref_usd=train.reference_cost(),
        best_fixed=normalise_name(_best_fixed(train)),
        output_tokens_M=mean_output_tokens(
            Path(work.config.outcomes) / "outcomes.parquet",
            [table.prompt_ids[i] for i in work.train],
            table.models,
            work.config.data.rename,
            pools,
        ),
        prices=card_prices(work.config.pool, cards),
        data={
            "fingerprint": table.fingerprint(),
            "train_prompts": len(train),
            "test_prompts": len(test),
            "split": "random",
            "split_seed": work.config.data.split_seed,
            "families": sorted(set(train.families)),
            **_pools_and_left_out(work),
        },
        config=_public(work.config),
    )


def _parts(train: Table, test: Table) -> tuple[Part, ...]:
    if not isinstance(train, PoolTable):
        assert not isinstance(test, PoolTable)
        return whole(train, test)
    assert isinstance(test, PoolTable)
    return tuple(
        Part(
            pool.sources,
            train.of_pool(number),
            test.of_pool(number),
            np.flatnonzero(test.pool_N == number),
            test.columns(number),
        )
        for number, pool in enumerate(test.pools)
    )


def _best_fixed(train: Table) -> str:
    """The best fixed model of the run, with several pools that of the largest."""
    part = max(train.parts(), key=len) if isinstance(train, PoolTable) else train
    return part.models[part.best_fixed()]


def _pools_and_left_out(work: Plan) -> dict[str, Any]:
    """What the manifest records for the judge to find the same pools and sides again."""
    table, found = work.table, dict[str, Any]()
    if isinstance(table, PoolTable):
        found["pools"] = [
            {"sources": list(pool.sources), "cards": [normalise_name(m) for m in pool.models]}
            for pool in table.pools
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
