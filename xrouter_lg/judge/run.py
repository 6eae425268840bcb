"""Score a checkpoint on an outcome table: choices, figures, and the gate's verdict.

The serving policy itself is asked, prompt by prompt (`estimates`); outcomes are looked at only to
pay for what it chose. What it expects of cost comes from the checkpoint's own statistics.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xrouter_lg.checkpoints.folder import read_manifest
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.figures.bootstrap import Figure, figure
from xrouter_lg.figures.metrics import Reference, weighted_gain
from xrouter_lg.judge.choices import write_choices
from xrouter_lg.judge.chooser import Asking, Chooser
from xrouter_lg.judge.choosers import chooser_of
from xrouter_lg.judge.estimates import Progress
from xrouter_lg.judge.gate.assess import MIN_PROMPTS, Assessment, Pooled, assess
from xrouter_lg.judge.gate.verdict import GATE_PROMPTS
from xrouter_lg.judge.halves import halves, read_table, recorded
from xrouter_lg.judge.score import curve_of
from xrouter_lg.judge.settings import JudgeSettings
from xrouter_lg.outcomes.grid import OutcomeGrid, Pool
from xrouter_lg.outcomes.near import NearDuplicates, near_duplicates
from xrouter_lg.policies.trained import TrainedPolicy

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Judged:
    settings: JudgeSettings
    manifest: Manifest
    table: OutcomeGrid
    """The prompts that were judged."""
    split: str
    """In words: which prompts were judged."""
    renamed: Mapping[str, str]
    choices: pl.DataFrame
    pools: tuple[Assessment, ...]
    unjudged: int
    """Prompts in pools too small, or of a single model, for figures; their choices are written."""
    gain: Figure | None
    """Over the zero router, all pools weighted by their prompts."""
    repeated: int
    """Judged prompts whose text is also in the training half."""
    near: NearDuplicates | None
    """What the judged prompts have in common with the training half, if that is known."""
    production: str | None
    seconds: float

    @property
    def promote(self) -> bool | None:
        """Every pool that the gate judged passes; None when it judged none."""
        verdicts = [pool.verdict for pool in self.pools if pool.verdict is not None]
        large = [v for v in verdicts if v.prompts >= GATE_PROMPTS] or verdicts
        return all(v.promote for v in large) if large else None

    def to_json(self) -> dict[str, Any]:
        """Plain values: the JSON beside the page, and what `--json` prints."""
        manifest, table = self.manifest, self.table
        router = self.choices["router_cost_usd"].mean()
        return {
            "schema_version": SCHEMA_VERSION,
            "checkpoint": {
                "name": self.settings.checkpoint.name,
                "version": manifest.version,
                "kind": manifest.kind,
                "base": None
                if manifest.language_model is None
                else manifest.language_model.base.model_id,
                "cards": [card.name for card in manifest.every_card],
                "c_ref_usd": manifest.c_ref_usd,
            },
            "outcomes": self.settings.outcomes.name,
            "prompts": len(table),
            "split": self.split,
            "sources": sorted({key[0] for key in table.keys}),
            "models": list(table.models),
            "renamed": dict(self.renamed),
            "models_unknown_to_checkpoint": dict(table.omitted.strangers),
            "outcomes_without_score_or_cost": dict(table.omitted.unpriced),
            "outcomes_of_other_pools": dict(table.omitted.elsewhere),
            "prompts_without_candidate": table.omitted.bare,
            "prompts_without_figures": self.unjudged,
            "prompts_seen_in_training": self.repeated,
            "near_duplicates": None if self.near is None else self.near.to_dict(),
            "cost_weights": sorted(self.choices["cost_weight"].unique().to_list()),
            "judged_at_cost_weight": self.settings.cost_weight,
            "router_usd_per_million": self.settings.router_usd_per_million,
            "router_usd_per_request": router,
            "gain_over_zero_router": None if self.gain is None else asdict(self.gain),
            "production": self.production,
            "promote": self.promote,
            "pools": [_pool_json(pool) for pool in self.pools],
            "choices": None if self.settings.choices is None else self.settings.choices.name,
            "seed": self.settings.seed,
            "draws": self.settings.draws,
            "seconds": round(self.seconds, 1),
        }


def judge_checkpoint(
    settings: JudgeSettings,
    *,
    on_estimate: Progress | None = None,
    on_step: Callable[[str], None] = lambda _: None,
) -> Judged:
    """Run the policy over the table, write the choices file if asked for, and judge.

    Raises:
        ValueError: a table can't be used, or the settings contradict each other.
        CheckpointError: a checkpoint can't be loaded.
    """
    started = time.perf_counter()
    if (settings.train_outcomes is None) != (settings.train_prompts is None):
        raise ValueError("train_outcomes and train_prompts go together: give both or neither")
    manifest = read_manifest(settings.checkpoint)
    renamed = {**recorded(manifest, "rename", {}), **settings.rename}
    asking = asking_of(settings, on_estimate)
    with closing(_chooser(settings.checkpoint, asking)) as chooser:
        whole = read_table(settings, settings.outcomes, settings.prompts, manifest, renamed)
        table, train, split = halves(settings, manifest, whole, renamed)
        weights = chooser.cost_weights()
        choices = chooser.choices(table, weights)
    if settings.choices is not None:
        write_choices(choices, settings.choices)
    others = _Others(settings, whole, table, asking, weights)
    pools, small, parts = [], 0, []
    for pool in table.pools():
        paired = table.complete(pool.models, pool.rows)
        if len(pool.models) < 2 or len(paired) < MIN_PROMPTS:
            small += len(paired)
            continue
        pooled = _pooled(pool, paired, train, manifest, table, choices, others)
        on_step(f"pool of {len(pool.models)} models, {len(paired)} prompts")
        pools.append(assess(pooled, settings, on_step))
        parts.append((curve_of(pooled.choices, paired, "checkpoint"), paired, pooled.reference))
    gain = pools[0].parts["all"].metrics.gain if len(pools) == 1 else None
    if len(pools) > 1:
        gain = figure(weighted_gain(parts, draws=settings.draws, seed=settings.seed))
    texts = set() if train is None else set(train.prompts)
    return Judged(
        settings=settings,
        manifest=manifest,
        table=table,
        split=split,
        renamed=renamed,
        choices=choices,
        pools=tuple(pools),
        unjudged=small,
        gain=gain,
        repeated=sum(text in texts for text in table.prompts),
        near=None if train is None else near_duplicates(train.prompts, table.prompts),
        production=others.production_version,
        seconds=time.perf_counter() - started,
    )


def asking_of(settings: JudgeSettings, progress: Progress | None = None) -> Asking:
    """How checkpoints are asked."""
    return Asking(
        base=settings.base,
        dtype=settings.dtype,
        server=settings.server,
        cost_weight=settings.cost_weight,
        router_usd_per_million=settings.router_usd_per_million,
        cache=settings.cache,
        progress=progress,
    )


def _chooser(checkpoint: Path, asking: Asking) -> Chooser[TrainedPolicy]:
    return chooser_of(checkpoint, read_manifest(checkpoint).kind, asking)


def _pooled(
    pool: Pool,
    paired: OutcomeGrid,
    train: OutcomeGrid | None,
    manifest: Manifest,
    table: OutcomeGrid,
    choices: pl.DataFrame,
    others: _Others,
) -> Pooled:
    half = None if train is None else train.complete(pool.models)
    if half is not None and len(half) < MIN_PROMPTS:
        half = None
    if half is not None:
        reference = Reference(half.best_fixed(), half.cheapest(), manifest.c_ref_usd)
    else:
        reference = _own_reference(pool, table, manifest)
    return Pooled(
        choices=choices,
        test=paired,
        train=half,
        reference=reference,
        known_families=frozenset(manifest.data.get("families", ())),
        unseen_gain=others.unseen_gain(pool, half),
        production=others.production(),
    )


def _own_reference(pool: Pool, table: OutcomeGrid, manifest: Manifest) -> Reference:
    """Best fixed and cheapest by what the checkpoint's training measured of the cards."""
    cards = [manifest.card(table.cards[table.models.index(name)]) for name in pool.models]
    prior = np.array([card.prior for card in cards if card is not None])
    cost = np.array([card.cost_usd for card in cards if card is not None])
    best = int(np.lexsort((cost, -prior))[0])
    return Reference(best, int(np.lexsort((-prior, cost))[0]), manifest.c_ref_usd)


class _Others:
    """Further checkpoints on the same table: what is in production, and those of unseen families.

    Each is run once, when a pool first asks.
    """

    def __init__(
        self,
        settings: JudgeSettings,
        whole: OutcomeGrid,
        table: OutcomeGrid,
        asking: Asking,
        weights: Sequence[float],
    ) -> None:
        self._settings, self._whole, self._table = settings, whole, table
        self._asking, self._weights = asking, weights
        self._production: pl.DataFrame | None = None
        self.production_version: str | None = None
        self._unseen: list[tuple[OutcomeGrid, pl.DataFrame]] | None = None

    def production(self) -> pl.DataFrame | None:
        path = self._settings.production
        if path is not None and self._production is None:
            with closing(_chooser(path, self._asking)) as chooser:
                self.production_version = chooser.manifest.version
                self._production = chooser.choices(self._table, self._weights)
        return self._production

    def unseen_gain(self, pool: Pool, half: OutcomeGrid | None) -> Figure | None:
        """AIQ over the zero router where each checkpoint never saw the families."""
        if self._unseen is None:
            self._unseen = [self._run(path) for path in self._settings.unseen]
        parts = []
        for rows, choices in self._unseen:
            # Exactly this pool's prompts: with more candidates others could be chosen.
            test = rows.of_pool(pool.models)
            if len(test) < MIN_PROMPTS:
                continue
            # The families left out are no part of what names the references.
            inside = set(test.families)
            seen = None
            if half is not None:
                seen = half.rows(np.array([name not in inside for name in half.families]))
            reference = Reference.of(test if seen is None else seen)
            parts.append((curve_of(choices, test, "checkpoint"), test, reference))
        if not parts:
            return None
        return figure(weighted_gain(parts, draws=self._settings.draws, seed=self._settings.seed))

    def _run(self, path: Path) -> tuple[OutcomeGrid, pl.DataFrame]:
        with closing(_chooser(path, self._asking)) as chooser:
            known = set(chooser.manifest.data.get("families", ()))
            fresh = np.array([name not in known for name in self._whole.families])
            if not known or not fresh.any():
                raise ValueError(
                    f"checkpoint {str(path)!r} has learned from every family of the table (or "
                    "records none): it says nothing about unseen ones"
                )
            cards = {card.name for card in chooser.manifest.every_card}
            reach = self._whole.candidates[:, [card in cards for card in self._whole.cards]]
            rows = self._whole.rows(fresh & reach.any(1))
            return rows, chooser.choices(rows, self._weights)


def _pool_json(pool: Assessment) -> dict[str, Any]:
    return {
        **asdict(pool),
        "parts": {name: score.to_json() for name, score in pool.parts.items()},
        "verdict": None if pool.verdict is None else pool.verdict.to_json(),
    }
