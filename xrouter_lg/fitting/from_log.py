"""A checkpoint out of a log: prompts of which only some cards' outcomes are known.

All that the log tells, and still holds, is learned from; what the checkpoint is worth is judged by
fits that leave a part of it out (:mod:`xrouter_lg.judge.one_sided`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import CardStats
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.figures.curve import DIAL
from xrouter_lg.fitting.aged import Aged, aged
from xrouter_lg.fitting.family_head import export_head, head_stats, read_partition
from xrouter_lg.fitting.held_out import dial_points
from xrouter_lg.fitting.lesson import card_prices, log_odds, mean_output_tokens
from xrouter_lg.fitting.provenance import provenance
from xrouter_lg.fitting.read_lesson import LessonSettings
from xrouter_lg.fitting.trained_on import reference_of
from xrouter_lg.outcomes.grid import OutcomeGrid, fingerprint_of, unit_usd
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.evidence import thumbs as thumbs_of
from xrouter_lg.value.features import Features
from xrouter_lg.value.grouping import Grouping, group
from xrouter_lg.value.model import ValueModel
from xrouter_lg.value.thumbs import ThumbError, UnlikeThumbs, thumb_error, unlike_thumbs

FOLDS = 5


@dataclass(frozen=True)
class FromLog:
    """A log, and what was learned from it."""

    table: OutcomeGrid
    features: Features
    evidence: Evidence
    grouping: Grouping
    model: ValueModel
    c_ref_usd: float
    """Mean cost of the card that is counted on most: the unit of the cost weight."""
    best_fixed: str
    thumbs: ThumbError
    """How often users are taken to be wrong."""
    aged: Aged
    """What of the log no longer holds; evidence, model and the table's costs are without it."""
    unlike: tuple[UnlikeThumbs, ...] = ()
    """Cards whose thumbs are not in the evidence."""

    def without(self, chosen_N: Bools) -> ValueModel | None:
        """The value model fitted without what is known of these prompts; None where nothing would
        be left."""
        rest = self.evidence.of_prompts(~chosen_N)
        if not len(rest):
            return None
        return self.model.learned(rest, np.where(chosen_N[:, None], np.nan, self.table.cost))

    def parts(self, shares: Sequence[float], seed: int = 0) -> Ints:
        """[N] which of the parts each prompt is in, dealt at random by these shares. The same text
        is in one part: what was learned of it must not judge it."""
        _, text_N = np.unique(np.array(self.table.prompts, dtype=object), return_inverse=True)
        drawn = np.random.default_rng(seed).random(int(text_N.max()) + 1)
        found: Ints = np.searchsorted(np.cumsum(shares[:-1]), drawn, side="right")[text_N]
        return found

    def folds(self, count: int = FOLDS) -> Iterator[tuple[Bools, ValueModel]]:
        """Prompts in so many parts [N], each with the value model that has not seen it."""
        fold_N = self.parts([1.0 / count] * count)
        for fold in range(count):
            fitted = self.without(fold_N == fold)
            if fitted is not None:
                yield fold_N == fold, fitted


def learned_from(
    table: OutcomeGrid, how: LessonSettings, *, before: FamilyHead | None = None
) -> FromLog:
    """Find families in a log's requests, and fit what every card is worth in each. ``before`` is
    the head that served until now; families that are found again keep their names.

    Raises:
        ConfigurationError: too few scored prompts, a single card, or requests that can't be told
            apart.
    """
    if len(table.models) < 2:
        raise ConfigurationError(
            f"all scored outcomes are {table.models[0]!r}'s: of other cards nothing is known. Set "
            "exploration=0.05 on the node, or buy their answers (`xrouter backfill`)"
        )
    thumbs = thumb_error(table)
    evidence = Evidence.of(table, thumb_error=thumbs.value)
    unlike = unlike_thumbs(table)
    if unlike:
        own_M = np.isin(table.cards, [one.card for one in unlike])
        told = thumbs_of(table) & own_M
        evidence = evidence.of_rows(~told[evidence.prompt_R, evidence.card_R])
    scored = len(np.unique(evidence.prompt_R))
    if scored < how.min_prompts:
        raise ConfigurationError(
            f"{scored} prompts have a score; at least {how.min_prompts} are needed. Ask users for "
            "feedback, name verifiers, or buy answers (`xrouter backfill`)"
        )
    features = Features.of(table.prompts)
    start = None if before is None else read_partition(before, table.prompts)
    grouping = group(features, table.families, evidence, table.cost, start=start)
    partitions = [own for own in grouping.partitions if len(own.names) > 1]
    if not partitions or not len(features.known_K):
        raise ConfigurationError(
            f"the {len(table)} prompts have no word in common, or are all alike: there is nothing "
            "to tell apart"
        )
    model = ValueModel.fit(features.plane_N_P, partitions, evidence, table.cost)
    left = aged(table, evidence, model)
    if left.changes or left.half_life_s is not None:
        table, evidence = dataclasses.replace(table, cost=left.cost_N_M), left.evidence
        model = model.learned(evidence, table.cost)
    _, counted_M, usd_M = model.overall()
    best = int(counted_M.argmax())
    return FromLog(
        table,
        features,
        evidence,
        grouping,
        model,
        unit_usd(np.nan_to_num(usd_M), best),
        table.cards[best],
        thumbs,
        left,
        unlike,
    )


def write_from_log(
    folder: Path,
    learned: FromLog,
    how: LessonSettings,
    *,
    verdict: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
) -> Manifest:
    """Write the checkpoint; the manifest as written, with ``metrics`` beside its own. Its dial is
    what the value model expects: no outcomes are held out to measure it on."""
    table, model = learned.table, learned.model
    head = export_head(learned.features, model, table.cost, table.cards)
    mean_M, _, usd_M = model.overall()
    expected = model.expect(model.shares(learned.features.plane_N_P))
    manifest = Manifest(
        kind="head",
        cards=_cards(learned, how, mean_M, usd_M),
        c_ref_usd=learned.c_ref_usd,
        best_fixed=learned.best_fixed,
        family_head=head_stats(head, learned.features, share=1.0),
        dial=dial_points(
            expected.counted_N_M,
            expected.usd_N_M,
            expected.mean_N_M,
            expected.usd_N_M,
            learned.c_ref_usd,
            DIAL,
        ),
        data={
            "fingerprint": fingerprint_of([table]),
            "train_prompts": len(table),
            "scored_prompts": len(np.unique(learned.evidence.prompt_R)),
            "test_prompts": 0,
            "split": "none",
            "families": sorted(set(table.families)),
        },
        reference=reference_of(learned.features, head),
        metrics={
            "router_usd_per_request": 0.0,
            "grouping": learned.grouping.tried,
            "thumbs": str(learned.thumbs),
            "unlike_thumbs": [str(one) for one in learned.unlike],
            "half_life_s": learned.aged.half_life_s,
            "changes": [str(change) for change in learned.aged.changes],
            **(metrics or {}),
        },
        verdict=verdict,
        config=how.public(),
        **provenance(),
    )
    manifest.check()
    return write_checkpoint(
        folder, manifest, lambda target: save_file(head.arrays, target / HEAD_FILE)
    )


def _cards(
    learned: FromLog, how: LessonSettings, score_M: Floats, usd_M: Floats
) -> tuple[CardStats, ...]:
    table = learned.table
    prices = card_prices(how.pool, table.cards)
    tokens_M = mean_output_tokens(table)
    prior_M = log_odds(score_M)
    return tuple(
        CardStats(
            name=name,
            line="",
            prior=float(prior_M[m]),
            centre=0.0,
            output_tokens=float(tokens_M[m]),
            # Unknown money must not look cheap: it counts as the reference.
            cost_usd=float(usd_M[m]) if np.isfinite(usd_M[m]) else learned.c_ref_usd,
            price=prices[m],
        )
        for m, name in enumerate(table.cards)
    )
