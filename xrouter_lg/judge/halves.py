"""Which prompts of a table a checkpoint is judged on, and which it has learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xrouter_lg.arrays import Bools
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.judge.baselines.cascades import answer_ids
from xrouter_lg.judge.settings import JudgeSettings
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import OutcomeGrid, fingerprint_of
from xrouter_lg.outcomes.split import trained_on


def recorded(manifest: Manifest, name: str, default: Any) -> Any:
    """A setting of the training run's `data` section."""
    return manifest.config.get("data", {}).get(name, default)


def read_table(
    settings: JudgeSettings,
    outcomes: Path,
    prompts: Path,
    manifest: Manifest,
    renamed: Mapping[str, str],
) -> OutcomeGrid:
    """The outcomes of the checkpoint's cards. Where it was trained on several pools, those of a
    pool are the candidates of its sources, whatever else the table holds."""
    table = OutcomeTable.load(outcomes, prompts).grid(
        cards=[card.name for card in (*manifest.cards, *manifest.added)],
        sources=settings.sources,
        models=settings.models,
        rename=renamed,
        more=("response",),
        about=("meta", "must_not_call"),
    )
    if "response" in table.more:
        # All that is needed of an answer is whether it equals another one, and how long it is.
        told = table.more["response"].tolist()
        lengths = np.array([[len((text or "").strip()) for text in row] for row in told])
        more = {"answer": answer_ids(told), "length": lengths}
        table = dataclasses.replace(table, more=more)
    added = [card.name for card in manifest.added]
    return table.within(
        {
            source: {*pool["cards"], *added}
            for pool in manifest.data.get("pools", ())
            for source in pool["sources"]
        }
    )


def halves(
    settings: JudgeSettings, manifest: Manifest, whole: OutcomeGrid, renamed: Mapping[str, str]
) -> tuple[OutcomeGrid, OutcomeGrid | None, str]:
    """The prompts to judge, those learned from if known, and in words which they are."""
    if settings.train_outcomes is not None:
        assert settings.train_prompts is not None
        train = read_table(
            settings, settings.train_outcomes, settings.train_prompts, manifest, renamed
        )
        if both := set(train.keys) & set(whole.keys):
            raise ValueError(
                f"{len(both)} prompts are in both tables, such as {'|'.join(min(both))}: a "
                "checkpoint is not judged on what it has learned from"
            )
        taught = ~_left_out(manifest, train)
        return whole, train.rows(taught) if taught.any() else None, "every prompt of the table"
    applies = settings.split == "recorded" or (
        settings.split == "auto" and _is_training_table(manifest, whole)
    )
    if not applies:
        return whole, None, "every prompt of the table"
    if manifest.data.get("split") != "random":
        raise ValueError(
            f"the manifest records the split {manifest.data.get('split')!r}; only a random one can "
            "be applied to a table. Give train_outcomes and train_prompts, or split='all'"
        )
    learned = trained_on(
        whole.prompt_ids,
        seed=int(manifest.data.get("split_seed", 0)),
        train_share=float(recorded(manifest, "train_share", 0.5)),
    )
    sources = {source for pool in _trained_pools(manifest) for source in pool["sources"]}
    if sources:
        learned &= whole.within_sources(sources)
    inside = ~_left_out(manifest, whole)
    learned, held = learned & inside, ~learned & inside
    if not held.any():
        raise ValueError(
            "the recorded split holds out no prompt of this table; give another table, or judge "
            "all of it with --split all"
        )
    said = f"the held-out side of the recorded split: {int(held.sum())} of {len(whole)} prompts"
    if not inside.all():
        said += f"; {int((~inside).sum())} of families left out of training are not among them"
    return whole.rows(held), whole.rows(learned) if learned.any() else None, said


def _left_out(manifest: Manifest, table: OutcomeGrid) -> Bools:
    """[N] prompts of families that the run left out: on neither side of its split."""
    gone = set(manifest.data.get("left_out", ()))
    return np.array([family in gone for family in table.families], dtype=np.bool_)


def _trained_pools(manifest: Manifest) -> list[dict[str, Any]]:
    """Sources (empty: all) and cards of each pool of the training run."""
    every = {
        "sources": recorded(manifest, "sources", []),
        "cards": [card.name for card in manifest.cards],
    }
    return list(manifest.data.get("pools", [every]))


def _is_training_table(manifest: Manifest, whole: OutcomeGrid) -> bool:
    """Whether the table holds what the checkpoint learned from, by its fingerprint."""
    names = dict(zip(whole.cards, whole.models, strict=True))
    tables = []
    for pool in _trained_pools(manifest):
        sources, trained = pool["sources"], [names.get(card) for card in pool["cards"]]
        rows = np.flatnonzero(whole.within_sources(sources)) if sources else None
        table = whole.complete([name for name in trained if name is not None], rows)
        if not len(table) or len(table.models) < len(trained):
            return False
        tables.append(table)
    return fingerprint_of(tables) == manifest.data.get("fingerprint")
