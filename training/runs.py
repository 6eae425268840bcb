"""The stages of a training run. Each writes to the run folder and is skipped when it is done.

    plan        read table and base, check everything, split (:mod:`training.plan`)
    features    activations of the frozen lower layers, once per prompt
    warm_start  TRL's SFT on soft targets; the best state on validation is kept
    grpo        TRL's GRPO on replayed outcomes, if asked for
    export      cost model, dial, figures on the held-out half, checkpoint

A stage's mark holds a digest of what it depends on, so a changed setting runs again exactly the
stages that it touches.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from training.base_model import Base, load_base, materialise, threads
from training.config import RunConfig
from training.export import (
    card_stats,
    dial_points,
    expected_of,
    export,
    fit_cost_model,
)
from training.family_head import fit_family_head, head_stats
from training.features import build_cache
from training.files import write_json
from training.grpo_stage import reinforce
from training.judge.curve import DIAL, Predictions, predicted_curve
from training.judge.metrics import Reference, evaluate
from training.judge.table import Floats
from training.plan import Plan, plan
from training.processes import is_main, main_first
from training.progress import Progress
from training.reading import CachedReading, PlainReading, Reading, predict
from training.reference import reference_of
from training.sequence_setup import SequenceSetup
from training.slot_model import SlotModel, of_cards, slot_model
from training.warm_start import log_loss, prior_log_odds
from training.warm_start_stage import warm_start
from xrouter_lg.checkpoint import Manifest
from xrouter_lg.pool import ModelPool, normalise_name

__all__ = ["Plan", "Progress", "finish", "log_loss", "plan", "run"]


def run(work: Plan, progress: Progress, *, resume: bool = False) -> Manifest | None:
    """All stages; the manifest of the checkpoint, or None in a process that helps the main one.
    What is done already is not done again; ``resume`` goes on with a stage that was interrupted.

    Raises:
        TrainingInterruptedError: a signal asked for the stop; what is done is saved.
    """
    work.folder.mkdir(parents=True, exist_ok=True)
    config = work.config
    use_cpu = config.trainer.use_cpu
    with threads(config.base.threads):
        with main_first(use_cpu):
            folder = materialise(
                config.base.path, work.folder / "base", model_id=config.base.model_id
            )
        base = load_base(folder, dtype=getattr(torch, config.base.dtype))
        sequence = SequenceSetup(work) if config.grpo.turns > 1 else None
        reading = read_prompts(work, base, sequence, progress)
        slot = slot_model(
            base,
            prior_log_odds(work.table.score[work.train]),
            config.warm_start,
            answers=0 if sequence is None else sequence.letters.answers,
        )
        if not use_cpu:
            slot.model.to("cuda")
        warm_start(work, slot, base, reading, progress, sequence=sequence, resume=resume)
        if config.grpo.steps:
            reinforce(work, slot, base, reading, progress, sequence=sequence, resume=resume)
        if not is_main():
            return None
        if sequence is not None:
            write_json(work.folder / "sequential.json", sequence.judge(slot, reading))
        return finish(work, of_cards(slot, len(work.table.models)), base, reading, progress)


def read_prompts(
    work: Plan, base: Base, sequence: SequenceSetup | None, progress: Progress
) -> Reading:
    """The run's prompts as the chosen recipe reads them; the activations of the frozen layers are
    computed here."""
    questions = [*work.questions, *([] if sequence is None else sequence.questions)]
    if work.config.warm_start.recipe == "plain":
        return PlainReading(base.tokenizer, work.prefix, questions)
    with main_first(work.config.trainer.use_cpu):
        cache = build_cache(
            base,
            work.prefix,
            questions,
            layers=work.config.warm_start.frozen_layers,
            folder=work.folder / "features",
            progress=lambda done, whole: progress("features", done, whole, ""),
        )
    return CachedReading(base, cache, work.prefix, questions)


def finish(
    work: Plan, slot: SlotModel, base: Base, reading: Reading, progress: Progress
) -> Manifest:
    """Measure on the held-out half and write the checkpoint."""
    table = work.table
    train, test = table.rows(work.train), table.rows(work.test)
    progress("judge", 0, 2, "")
    z_train, z_test = predict(slot, reading, work.train), predict(slot, reading, work.test)
    progress("judge", 1, 2, "")
    size = np.array([len(prompt) / 4 for prompt in table.prompts])
    names = [normalise_name(name) for name in table.models]
    cost_model = fit_cost_model(z_train, size[work.train], train.cost)
    reference = Reference.of(train)
    head = None
    if work.config.family_head_share > 0:
        head = fit_family_head(train.prompts, train.families, train.score, train.cost, names)
    tokens = len(base.tokenizer.encode(work.prefix)) + float(np.mean(reading.lengths[: len(table)]))
    router_cost = tokens * work.config.router_usd_per_million / 1e6
    manifest = Manifest(
        base=base.identity,
        cards=card_stats(
            names,
            work.lines,
            slot,
            train.cost.mean(0),
            _mean_output_tokens(work),
            _prices(work, names),
        ),
        c_ref_usd=reference.c_ref,
        best_fixed=names[reference.best_fixed],
        weights=work.config.weights,
        cost_model=cost_model,
        family_head=None
        if head is None
        else head_stats(head, train.prompts, share=work.config.family_head_share),
        data={
            "fingerprint": table.fingerprint(),
            "train_prompts": len(train),
            "test_prompts": len(test),
            "split": "random",
            "split_seed": work.config.data.split_seed,
            "families": sorted(set(train.families)),
        },
        config=_public(work.config),
        reference=reference_of(train.prompts, head),
    )
    quality, ratio = expected_of(manifest, slot, z_test, test.prompts, size[work.test], head)
    expected = ratio * train.cost.mean(0)
    curve = predicted_curve(
        "checkpoint",
        Predictions(quality, expected),
        test,
        c_ref=reference.c_ref,
        router_cost=router_cost,
    )
    figures = evaluate(curve, test, reference)
    manifest = dataclasses.replace(
        manifest,
        dial=dial_points(quality, expected, test.score, test.cost, reference.c_ref, DIAL),
        metrics={
            "held_out_log_loss": log_loss(z_test, test.score),
            "aiq": dataclasses.asdict(figures.aiq),
            "gain_over_zero_router": dataclasses.asdict(figures.gain),
            "parity_share": dataclasses.asdict(figures.parity_share),
            "router_usd_per_request": router_cost,
        },
    )
    written = export(
        work.folder / "checkpoint", slot, base, manifest, weights=work.config.weights, head=head
    )
    progress("judge", 2, 2, "")
    return written


def _prices(work: Plan, names: Sequence[str]) -> list[Mapping[str, str] | None]:
    """The cards' prices at training time, where the run has a pool: a later one is seen by them."""
    if not work.config.pool:
        return [None] * len(names)
    pool = ModelPool.from_yaml(work.config.pool, reload=False)
    prices = [pool[name].effective_price if name in pool.names else None for name in names]
    return [None if price is None else price.to_dict() for price in prices]


def _mean_output_tokens(work: Plan) -> Floats:
    """Mean output tokens per model over the training prompts; 0 where none are recorded."""
    data = work.config.data
    key = pl.concat_str(["source", "task", "prompt_id"], separator="|")
    wanted = [work.table.prompt_ids[i] for i in work.train]
    rows = pl.scan_parquet(Path(work.config.outcomes) / "outcomes.parquet")
    if "output_tokens" not in rows.collect_schema().names():
        return np.zeros(len(work.table.models))
    frame = (
        rows.with_columns(pl.col("model").replace(dict(data.rename)))
        .filter(key.is_in(wanted))
        .group_by("model")
        .agg(pl.col("output_tokens").mean().alias("mean"))
        .collect()
    )
    means = dict(zip(frame["model"], frame["mean"], strict=True))
    return np.array([float(means.get(model) or 0.0) for model in work.table.models])


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
