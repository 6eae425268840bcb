"""A checkpoint of plans of several calls, learned from recorded answers."""

from __future__ import annotations

from pathlib import Path

from xrouter_lg.checkpoints.cascade_model import ANSWERS_FILE
from xrouter_lg.checkpoints.folder import write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import CascadeStats, DialPoint
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.figures.curve import Curve
from xrouter_lg.figures.metrics import Reference
from xrouter_lg.fitting.cascade import fit_answers
from xrouter_lg.fitting.cascade_choice import plan_curve, recorded_of
from xrouter_lg.fitting.family_head import head_stats
from xrouter_lg.fitting.held_out import figures_of
from xrouter_lg.fitting.provenance import provenance
from xrouter_lg.fitting.read_lesson import LessonSettings, read_lesson
from xrouter_lg.fitting.trained_on import reference_of
from xrouter_lg.value.features import Features

TURNS = 3
"""Decisions of a request unless told otherwise: two rounds of calls, and what to accept."""


def train_cascade(
    outcomes: Path, folder: Path, how: LessonSettings, *, turns: int = TURNS
) -> Manifest:
    """Learn plans from the table in ``outcomes``, measure them on its held-out half with at most
    ``turns`` decisions, and write the checkpoint; the manifest as written.

    Raises:
        ConfigurationError: the table can't be used, keeps no responses, or is too small.
    """
    lesson = read_lesson(outcomes, how)
    (part,) = lesson.parts
    told, asked = recorded_of(part.train), recorded_of(part.test)
    prices = {
        card: price
        for card, price in zip(lesson.cards, lesson.prices, strict=True)
        if price is not None
    }
    try:
        model = fit_answers(part.train, told, prices=prices)
    except ValueError as error:
        raise ConfigurationError(f"no plans can be learned here: {error}") from error
    curve = plan_curve(model, part.test, asked, turns=turns)
    features = Features.of(part.train.prompts)
    manifest = Manifest(
        kind="cascade",
        cards=lesson.stats(),
        c_ref_usd=lesson.c_ref_usd,
        best_fixed=lesson.best_fixed,
        family_head=head_stats(model.head, features, share=1.0),
        cascade=CascadeStats(ANSWERS_FILE, turns),
        dial=_dial(curve),
        data=lesson.data,
        reference=reference_of(features, model.head),
        metrics={
            **figures_of(curve, part.test, Reference.of(part.train)),
            "router_usd_per_request": 0.0,
        },
        config={**lesson.config, "turns": turns},
        **provenance(),
    )
    manifest.check()
    return write_checkpoint(folder, manifest, model.write)


def _dial(curve: Curve) -> tuple[DialPoint, ...]:
    """What each cost weight gives."""
    return tuple(
        DialPoint(float(weight), float(score), float(usd), None)
        for weight, score, usd in zip(
            curve.cost_weight, curve.score.mean(1), curve.cost.mean(1), strict=True
        )
    )
