"""The stages of a training run. Each writes to the run folder and is skipped when it is done.

    plan        read table and base, check everything, split (:mod:`training.data.inputs`)
    features    activations of the frozen lower layers, once per prompt
    warm_start  TRL's SFT on soft targets; the best state on validation is kept
    grpo        TRL's GRPO on replayed outcomes, if asked for
    export      cost model, dial, figures on the held-out half, checkpoint

Where the family head is told to have all of the say there is no language model to train: only plan
and export are left, which take seconds.

A stage's mark holds a digest of what it depends on, so a changed setting runs again exactly the
stages that it touches.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from training.config.run import RunConfig
from training.data.inputs import Plan, plan
from training.data.pools import PoolTable, Table
from training.grpo.stage import reinforce
from training.model.base import Base, load_base, threads
from training.model.blocks import BlockReading
from training.model.features import build_cache
from training.model.reading import CachedReading, PlainReading, Reading, predict_rows
from training.model.slots import SlotModel, slot_model
from training.run.export import (
    card_stats,
    dial_points,
    expected_of,
    export,
    fit_cost_model,
)
from training.run.head_share import SHARES, ShareChoice, choose_share
from training.stage.processes import is_main, main_first
from training.stage.progress import Progress
from training.warm_start.stage import warm_start
from training.warm_start.targets import log_loss, prior_log_odds
from xrouter_lg.checkpoints.bases import materialise
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.figures.bootstrap import figure
from xrouter_lg.figures.curve import DIAL, Curve, Predictions, predicted_curve
from xrouter_lg.figures.metrics import Reference, evaluate
from xrouter_lg.fitting.family_head import fit_family_head, head_stats
from xrouter_lg.fitting.trained_on import reference_of
from xrouter_lg.judge.gate.compare import weighted_gain
from xrouter_lg.judge.table import Floats, Ints, Paired
from xrouter_lg.pool.pool import ModelPool, normalise_name

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
        reading = read_prompts(work, base, progress)
        slot = slot_model(
            base,
            prior_log_odds(work.table.score[work.train]),
            config.warm_start,
            blocks=work.cut.sizes,
        )
        if not use_cpu:
            slot.model.to("cuda")
        if config.trains_model:
            warm_start(work, slot, base, reading, progress, resume=resume)
        if config.grpo.steps:
            reinforce(work, slot, base, reading, progress, resume=resume)
        if not is_main():
            return None
        return finish(work, slot, base, reading, progress)


def read_prompts(work: Plan, base: Base, progress: Progress) -> Reading:
    """The run's prompts as the chosen recipe reads them; the activations of the frozen layers are
    computed here."""
    blocks = [
        (prefix, [work.questions[i] for i in np.flatnonzero(read)])
        for prefix, read in zip(work.prefixes, work.cut.read_N_K.T, strict=True)
    ]
    whole = sum(len(questions) for _, questions in blocks)
    parts: list[Reading] = []
    for prefix, questions in blocks:
        if work.config.warm_start.recipe == "plain" or not work.config.trains_model:
            parts.append(PlainReading(base.tokenizer, prefix, questions))
            continue
        before = sum(map(len, parts))
        with main_first(work.config.trainer.use_cpu):
            cache = build_cache(
                base,
                prefix,
                questions,
                layers=work.config.warm_start.frozen_layers,
                folder=work.folder / "features",
                progress=lambda done, _, before=before: progress(  # type: ignore[misc]
                    "features", before + done, whole, ""
                ),
            )
        parts.append(CachedReading(base, cache, prefix, questions))
    return parts[0] if len(parts) == 1 else BlockReading(parts, work.cut)


def finish(
    work: Plan, slot: SlotModel, base: Base, reading: Reading, progress: Progress
) -> Manifest:
    """Measure on the held-out half and write the checkpoint."""
    table = work.table
    train, test = table.rows(work.train), table.rows(work.test)
    progress("judge", 0, 2, "")
    z_train = _log_odds(work, slot, reading, work.train)
    z_test = _log_odds(work, slot, reading, work.test)
    progress("judge", 1, 2, "")
    size = np.array([len(prompt) / 4 for prompt in table.prompts])
    names = [normalise_name(name) for name in table.models]
    prior = slot.prior_M.double().numpy()
    cost_model = fit_cost_model(z_train, size[work.train], train.cost, prior)
    mean_cost, c_ref = np.nanmean(train.cost, axis=0), train.reference_cost()
    head = None
    share = work.config.family_head_share
    if share == "auto" or share > 0:
        head = fit_family_head(train.prompts, train.families, train.score, train.cost, names)
    if head is None and not work.config.trains_model:
        raise ConfigurationError(
            f"family_head_share is 1, but the {len(train)} training prompts are of one family "
            f"({train.families[0]!r}) or have no word in common: there is nothing for the head to "
            "tell apart. Set family_head_share=auto, or give prompts.parquet a category"
        )
    router = _RouterTokens.of(work, base, reading)
    price = work.config.router_usd_per_million
    manifest = Manifest(
        base=base.identity,
        cards=card_stats(
            names,
            work.lines,
            slot,
            mean_cost,
            _mean_output_tokens(work),
            _prices(work, names),
        ),
        c_ref_usd=c_ref,
        best_fixed=normalise_name(_best_fixed(train)),
        weights=work.config.weights,
        blocks=work.cut.sizes if len(work.cut.sizes) > 1 else (),
        cost_model=cost_model,
        family_head=None
        if head is None
        else head_stats(head, train.prompts, share=1.0 if share == "auto" else share),
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
        reference=reference_of(train.prompts, head),
    )
    chosen = None
    if head is not None and manifest.family_head is not None and share == "auto":
        usd = router.mean(work.validation) * price / 1e6
        chosen = _head_share(work, manifest, slot, reading, size, usd)
        stats = dataclasses.replace(manifest.family_head, share=chosen.share)
        manifest = dataclasses.replace(manifest, family_head=stats)
    reads = 1.0 if manifest.reads_model else 0.0
    quality, ratio = expected_of(manifest, slot, z_test, test.prompts, size[work.test], head)
    expected = ratio * mean_cost
    manifest = dataclasses.replace(
        manifest,
        dial=dial_points(quality, expected, test.score, test.cost, c_ref, DIAL),
        metrics={
            **(
                {"held_out_log_loss": log_loss(z_test, test.score)}
                if work.config.trains_model
                else {}
            ),
            **held_out(
                train, test, Predictions(quality, expected), reads * router.by_pool() * price / 1e6
            ),
            "router_usd_per_request": reads * router.mean(slice(None)) * price / 1e6,
            **({} if chosen is None else {"family_head_share": dataclasses.asdict(chosen)}),
        },
    )
    written = export(
        work.folder / "checkpoint", slot, base, manifest, weights=work.config.weights, head=head
    )
    progress("judge", 2, 2, "")
    return written


def _log_odds(work: Plan, slot: SlotModel, reading: Reading, rows: Ints) -> Floats:
    """[n, M] what the language model says of these prompts; one that did not learn says the
    prior."""
    if not work.config.trains_model:
        return np.tile(slot.prior_M.double().numpy(), (len(rows), 1))
    return predict_rows(slot, reading, rows)


def _head_share(
    work: Plan,
    manifest: Manifest,
    slot: SlotModel,
    reading: Reading,
    size_N: Floats,
    router_usd: float,
) -> ShareChoice:
    """The head's share, by a head that has not learned from the validation prompts either."""
    fit, held = work.table.rows(work.fit), work.table.rows(work.validation)
    names = [card.name for card in manifest.cards]
    z_N_M = predict_rows(slot, reading, work.validation)
    head = fit_family_head(fit.prompts, fit.families, fit.score, fit.cost, names)
    if head is None:
        return ShareChoice(1.0, {}, 0.0, 0.0)
    stats = head_stats(head, fit.prompts, share=1.0)
    mean_M, expected = np.nanmean(fit.cost, axis=0), dict[float, tuple[Floats, Floats]]()
    for share in SHARES:
        tried = dataclasses.replace(manifest, family_head=dataclasses.replace(stats, share=share))
        quality, ratio = expected_of(
            tried, slot, z_N_M, held.prompts, size_N[work.validation], head
        )
        expected[share] = (quality, ratio * mean_M)
    return choose_share(
        expected, held.score, held.cost, router_usd=router_usd, c_ref_usd=manifest.c_ref_usd
    )


def held_out(
    train: Table, test: Table, expected: Predictions, router_usd_P: Floats
) -> dict[str, Any]:
    """The figures of decisions on held-out prompts. With several pools there is a set of them for
    each, and the gain over all, weighted by their prompts. ``router_usd_P`` is what a decision
    costs in each pool."""
    c_ref = train.reference_cost()
    if isinstance(test, Paired):
        assert isinstance(train, Paired)
        curve, reference = _judged(train, test, expected, float(router_usd_P[0]), c_ref)
        return _figures(curve, test, reference)
    assert isinstance(train, PoolTable)
    parts, found = [], []
    for number, pool in enumerate(test.pools):
        own, cells = test.of_pool(number), np.flatnonzero(test.pool_N == number)
        at = np.ix_(cells, test.columns(number))
        there = Predictions(expected.quality[at], expected.cost[at])
        usd = float(router_usd_P[number])
        curve, reference = _judged(train.of_pool(number), own, there, usd, c_ref)
        parts.append((curve, own, reference))
        found.append({"sources": list(pool.sources), **_figures(curve, own, reference)})
    gain = dataclasses.asdict(figure(weighted_gain(parts)))
    return {"gain_over_zero_router": gain, "pools": found}


def _judged(
    train: Paired, test: Paired, expected: Predictions, router_usd: float, c_ref: float
) -> tuple[Curve, Reference]:
    reference = dataclasses.replace(Reference.of(train), c_ref=c_ref)
    curve = predicted_curve("checkpoint", expected, test, c_ref=c_ref, router_cost=router_usd)
    return curve, reference


def _figures(curve: Curve, test: Paired, reference: Reference) -> dict[str, Any]:
    figures = evaluate(curve, test, reference)
    return {
        "aiq": dataclasses.asdict(figures.aiq),
        "gain_over_zero_router": dataclasses.asdict(figures.gain),
        "parity_share": dataclasses.asdict(figures.parity_share),
    }


@dataclass(frozen=True)
class _RouterTokens:
    """What the router reads of each prompt of the table: its blocks, and the question."""

    prefix_N: Floats
    question_N: Floats
    pool_N: Ints

    @classmethod
    def of(cls, work: Plan, base: Base, reading: Reading) -> _RouterTokens:
        table = work.table
        prefix_N, question_N = np.zeros(len(table)), np.zeros(len(table))
        start, lengths = 0, reading.lengths
        for prefix, read in zip(work.prefixes, work.cut.read_N_K.T, strict=True):
            rows = np.flatnonzero(read)
            prefix_N[rows] += len(base.tokenizer.encode(prefix))
            question_N[rows] += lengths[start : start + len(rows)]
            start += len(rows)
        one = np.zeros(len(table), dtype=np.int64)
        return cls(prefix_N, question_N, table.pool_N if isinstance(table, PoolTable) else one)

    def mean(self, rows: Any) -> float:
        """Per decision on these prompts."""
        return float(self.prefix_N[rows].mean()) + float(self.question_N[rows].mean())

    def by_pool(self) -> Floats:
        """[P] per decision in each pool."""
        return np.array([self.mean(self.pool_N == p) for p in range(int(self.pool_N.max()) + 1)])


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
    candidate = pl.lit(True)
    if isinstance(work.table, PoolTable):
        candidate = pl.any_horizontal(
            pl.col("source").is_in(list(pool.sources)) & pl.col("model").is_in(list(pool.models))
            for pool in work.table.pools
        )
    if "output_tokens" not in rows.collect_schema().names():
        return np.zeros(len(work.table.models))
    frame = (
        rows.with_columns(pl.col("model").replace(dict(data.rename)))
        .filter(key.is_in(wanted) & candidate)
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
