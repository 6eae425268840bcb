"""A judged checkpoint whose estimates come from a classical estimator: no language model needed.

Tables and choices go through the judge's own code, so that what is made here is what it makes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import BaseIdentity, CardStats, LanguageModel
from xrouter_lg.figures.metrics import Reference
from xrouter_lg.judge.baselines.learned import predicted_family
from xrouter_lg.judge.choices import dial_of, make_choices
from xrouter_lg.judge.estimates import Estimates
from xrouter_lg.judge.gate.assess import AssessSettings, Pooled, assess
from xrouter_lg.judge.run import Judged
from xrouter_lg.judge.settings import JudgeSettings
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.near import near_duplicates
from xrouter_lg.outcomes.split import random_split

CARDS = ("adder", "lookup", "large")


def write_tables(
    folder: Path, table: OutcomeGrid, *, source: str = "made", task: str = "mixed"
) -> None:
    """outcomes.parquet and prompts.parquet of a table, its families as categories."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "source": source,
            "task": task,
            "prompt_id": table.prompt_ids[n],
            "model": model,
            "score": float(table.score[n, m]),
            "cost_usd": float(table.cost[n, m]),
        }
        for n in range(len(table))
        for m, model in enumerate(table.models)
    ]
    pl.DataFrame(rows).write_parquet(folder / "outcomes.parquet")
    pl.DataFrame(
        {
            "source": source,
            "task": task,
            "prompt_id": table.prompt_ids,
            "prompt": table.prompts,
            "category": table.families,
        }
    ).write_parquet(folder / "prompts.parquet")


def manifest_of(train: OutcomeGrid) -> Manifest:
    """What a training run on `train` would have noted of its cards."""
    mean = train.score.mean(0)
    cards = tuple(
        CardStats(
            name,
            f"{name} one",
            float(np.log(p / (1 - p))),
            0.0,
            100.0,
            float(train.cost[:, m].mean()),
        )
        for m, (name, p) in enumerate(zip(train.models, mean, strict=True))
    )
    return Manifest(
        kind="slots",
        language_model=LanguageModel(BaseIdentity("tiny", "0" * 64, "1" * 64, 3, 32), "adapter"),
        cards=cards,
        c_ref_usd=train.reference_cost(),
        best_fixed=train.models[train.best_fixed()],
        data={"families": sorted(set(train.families))},
    )


def estimates_of(train: OutcomeGrid, rows: OutcomeGrid) -> Estimates:
    """What a policy that recognises the kind of task expects."""
    found = predicted_family(train, rows.prompts)
    return Estimates(train.models, found.quality, found.cost, np.full(len(rows), 120.0))


def make_judged(
    folder: Path, table: OutcomeGrid, *, baselines: bool = True, name: str = "made", draws: int = 60
) -> Judged:
    """Half of the table learned from, the other half judged."""
    write_tables(folder, table)
    whole = OutcomeTable.load(folder).grid(cards=table.models)
    train, test = random_split(whole.complete(), seed=0)
    held = set(test.prompt_ids)
    rows = whole.rows(np.array([i in held for i in whole.prompt_ids]))
    manifest = manifest_of(train)
    weights = dial_of(manifest, 0.3)
    choices = make_choices(
        rows, estimates_of(train, rows), c_ref_usd=manifest.c_ref_usd, cost_weights=weights
    )
    reference = Reference(train.best_fixed(), train.cheapest(), manifest.c_ref_usd)
    pool = Pooled(choices, test, train, reference, frozenset(train.families))
    settings = AssessSettings(cost_weight=0.3, baselines=baselines, draws=draws)
    found = assess(pool, settings)
    return Judged(
        settings=JudgeSettings(
            checkpoint=folder / name,
            outcomes=folder / "outcomes.parquet",
            prompts=folder / "prompts.parquet",
            draws=draws,
        ),
        manifest=manifest,
        table=rows,
        split=f"the held-out half: {len(rows)} prompts",
        renamed={},
        choices=choices,
        pools=(found,),
        unjudged=0,
        gain=found.parts["all"].metrics.gain,
        repeated=0,
        near=near_duplicates(train.prompts, rows.prompts),
        production=None,
        seconds=1.0,
    )
