"""A checkpoint whose family head decides alone: fitted in seconds, without torch.

It is the first step of learning from one's own outcomes, and what a training run writes whose
language model turns out not to be worth its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from xrouter_lg.checkpoints.family_head import HEAD_FILE, FamilyHead
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.figures.curve import DIAL, Predictions
from xrouter_lg.fitting.cost_model import fit_cost_model
from xrouter_lg.fitting.family_head import head_of, head_stats
from xrouter_lg.fitting.held_out import dial_points, expected_of, held_out
from xrouter_lg.fitting.lesson import Lesson, tokens_of
from xrouter_lg.fitting.provenance import provenance
from xrouter_lg.fitting.trained_on import reference_of
from xrouter_lg.policies.utility import Predictor
from xrouter_lg.value.features import Features


def fit_head(lesson: Lesson, before: FamilyHead | None = None) -> FamilyHead:
    """The family head of a lesson; ``before`` is the one that served until now.

    Raises:
        ConfigurationError: its prompts can't be told apart.
    """
    train = lesson.train
    head = head_of(train, lesson.cards, before=before)
    if head is None:
        raise ConfigurationError(
            f"the {len(train)} training prompts have no word in common, or are all alike: there is "
            "nothing for a family head to tell apart. A language model may do so, trained with "
            "family_head_share=auto"
        )
    return head


def write_head(
    folder: Path,
    lesson: Lesson,
    head: FamilyHead | None = None,
    *,
    metrics: Mapping[str, Any] | None = None,
) -> Manifest:
    """Measure on the held-out half and write the checkpoint; the manifest as written. ``head`` is
    fitted here where there is none yet; ``metrics`` are further ones to record.

    Raises:
        ConfigurationError: as :func:`fit_head`.
    """
    head = fit_head(lesson) if head is None else head
    train, test = lesson.train, lesson.test
    features = Features.of(train.prompts)
    stats, cards = head_stats(head, features, share=1.0), lesson.stats()
    prior_M = np.array([card.prior for card in cards])
    cost_model = fit_cost_model(
        np.tile(prior_M, (len(train), 1)), tokens_of(train.prompts), train.cost, prior_M
    )
    predictor = Predictor(
        cards=cards, c_ref_usd=lesson.c_ref_usd, cost_model=cost_model, head=head, stats=stats
    )
    quality, ratio = expected_of(predictor, test.prompts, tokens_of(test.prompts))
    expected = Predictions(quality, ratio * lesson.mean_usd_M)
    free = [0.0] * len(lesson.parts)
    manifest = Manifest(
        kind="head",
        cards=cards,
        c_ref_usd=lesson.c_ref_usd,
        best_fixed=lesson.best_fixed,
        family_head=stats,
        cost_model=cost_model,
        dial=dial_points(
            expected.quality, expected.cost, test.score, test.cost, lesson.c_ref_usd, DIAL
        ),
        data=lesson.data,
        reference=reference_of(features, head),
        metrics={
            **held_out(lesson.parts, expected, free, lesson.c_ref_usd),
            "router_usd_per_request": 0.0,
            **(metrics or {}),
        },
        config=lesson.config,
        **provenance(),
    )
    manifest.check()
    return write_checkpoint(
        folder, manifest, lambda target: save_file(head.arrays, target / HEAD_FILE)
    )
