"""The stages of a training run. Each writes to the run folder and is skipped when it is done.

    plan        read table and base, check everything, split (:mod:`training.data.inputs`)
    features    activations of the frozen lower layers, once per prompt
    warm_start  TRL's SFT on soft targets; the best state on validation is kept
    grpo        TRL's GRPO on replayed outcomes, if asked for
    export      cost model, dial, figures on the held-out half, checkpoint

Where the family head is told to have all of the say there is no language model to train, and no
stage but plan and export: see :mod:`training.run.head`.

A stage's mark holds a digest of what it depends on, so a changed setting runs again exactly the
stages that it touches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from training.data.inputs import Plan
from training.data.lesson import lesson_of
from training.grpo.stage import reinforce
from training.model.base import Base, load_base, threads
from training.model.blocks import BlockReading
from training.model.features import build_cache
from training.model.reading import CachedReading, PlainReading, Reading, predict_rows
from training.model.slots import SlotModel, slot_model
from training.processes import is_main, main_first
from training.run.export import export
from training.run.head_share import SHARES, ShareChoice, choose_share
from training.stage.progress import Progress
from training.warm_start.stage import warm_start
from training.warm_start.targets import log_loss
from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.checkpoints.bases import materialise
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import LanguageModel
from xrouter_lg.figures.curve import DIAL, Predictions
from xrouter_lg.fitting.cost_model import fit_cost_model
from xrouter_lg.fitting.family_head import head_of, head_stats
from xrouter_lg.fitting.head_checkpoint import write_head
from xrouter_lg.fitting.held_out import dial_points, expected_of, held_out
from xrouter_lg.fitting.lesson import prior_log_odds, tokens_of
from xrouter_lg.fitting.trained_on import reference_of
from xrouter_lg.policies.utility import Predictor
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.value.features import Features


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
        if work.config.warm_start.recipe == "plain":
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
    """Measure on the held-out half and write the checkpoint. Where the family head is to have all
    of the say the language model stays behind: nothing would read it."""
    lesson, names = lesson_of(work), [normalise_name(name) for name in work.table.models]
    train, test = lesson.train, lesson.test
    progress("judge", 0, 2, "")
    z_train, z_test = (predict_rows(slot, reading, rows) for rows in (work.train, work.test))
    progress("judge", 1, 2, "")
    share = work.config.family_head_share
    head, features = None, Features.of(train.prompts)
    if share == "auto" or share > 0:
        head = head_of(train, names)
    prior, centre = slot.prior_M.double().numpy(), slot.centre_M.double().numpy()
    predictor = Predictor(
        cards=lesson.stats(prior, centre, work.lines),
        c_ref_usd=lesson.c_ref_usd,
        cost_model=fit_cost_model(z_train, tokens_of(train.prompts), train.cost, prior),
        head=head,
        stats=None if head is None else head_stats(head, features, share=1.0),
    )
    router = _RouterTokens.of(work, base, reading)
    price = work.config.router_usd_per_million / 1e6
    metrics: dict[str, Any] = {"held_out_log_loss": log_loss(z_test, test.score)}
    if predictor.stats is not None:
        if share == "auto":
            usd = router.mean(work.validation) * price
            chosen = _head_share(work, predictor, slot, reading, usd)
            metrics["family_head_share"] = dataclasses.asdict(chosen)
            share = chosen.share
        predictor = predictor.with_share(share)
        if share == 1.0:
            written = write_head(work.folder / "checkpoint", lesson, head, metrics=metrics)
            progress("judge", 2, 2, "")
            return written
    quality, ratio = _expected(predictor, slot, z_test, test.prompts)
    expected = Predictions(quality, ratio * lesson.mean_usd_M)
    manifest = Manifest(
        kind="slots",
        language_model=LanguageModel(
            base.identity,
            work.config.weights,
            blocks=work.cut.sizes if len(work.cut.sizes) > 1 else (),
        ),
        cards=predictor.cards,
        c_ref_usd=lesson.c_ref_usd,
        best_fixed=lesson.best_fixed,
        cost_model=predictor.cost_model,
        family_head=predictor.stats,
        data=lesson.data,
        config=lesson.config,
        reference=reference_of(features, head),
        dial=dial_points(quality, expected.cost, test.score, test.cost, lesson.c_ref_usd, DIAL),
        metrics={
            **metrics,
            **held_out(
                lesson.parts, expected, (router.by_pool() * price).tolist(), lesson.c_ref_usd
            ),
            "router_usd_per_request": router.mean(slice(None)) * price,
        },
    )
    written = export(
        work.folder / "checkpoint", slot, base, manifest, weights=work.config.weights, head=head
    )
    progress("judge", 2, 2, "")
    return written


def _expected(
    predictor: Predictor, slot: SlotModel, z_N_M: Floats, prompts: Sequence[str]
) -> tuple[Floats, Floats]:
    """What serving expects where the language model said ``z_N_M``, NaN where it read nothing."""
    contrast_N_M = z_N_M - slot.prior_M.numpy() + slot.centre_M.numpy()
    return expected_of(predictor, prompts, tokens_of(prompts), contrast_N_M)


def _head_share(
    work: Plan, whole: Predictor, slot: SlotModel, reading: Reading, router_usd: float
) -> ShareChoice:
    """The head's share, by a head that has not learned from the validation prompts either."""
    fit, held = work.table.rows(work.fit), work.table.rows(work.validation)
    names = [card.name for card in whole.cards]
    z_N_M = predict_rows(slot, reading, work.validation)
    head = head_of(fit, names)
    if head is None:
        return ShareChoice(1.0, {}, 0.0, 0.0)
    stats = head_stats(head, Features.of(fit.prompts), share=1.0)
    halved = dataclasses.replace(whole, head=head, stats=stats)
    mean_M, expected = np.nanmean(fit.cost, axis=0), dict[float, tuple[Floats, Floats]]()
    for share in SHARES:
        quality, ratio = _expected(halved.with_share(share), slot, z_N_M, held.prompts)
        expected[share] = (quality, ratio * mean_M)
    return choose_share(
        expected, held.score, held.cost, router_usd=router_usd, c_ref_usd=whole.c_ref_usd
    )


@dataclass(frozen=True)
class _RouterTokens:
    """What the router reads of each prompt of the table: its blocks, and the question."""

    prefix_N: Floats
    question_N: Floats
    pools: tuple[Ints, ...]
    """Rows of each pool."""

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
        return cls(prefix_N, question_N, tuple(pool.rows for pool in table.pools()))

    def mean(self, rows: Any) -> float:
        """Per decision on these prompts."""
        return float(self.prefix_N[rows].mean()) + float(self.question_N[rows].mean())

    def by_pool(self) -> Floats:
        """[P] per decision in each pool."""
        return np.array([self.mean(rows) for rows in self.pools])
