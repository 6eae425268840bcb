"""What an outcome table knows already: every prompt × the cards that could be asked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from xrouter_lg.arrays import Bools, Floats
from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.outcomes.grid import Column, OutcomeGrid, card_name
from xrouter_lg.pool.card import ModelCard

LOGGED = ("propensity", "observed_at", "scored_by")
"""Columns of the outcomes that say how much they tell."""


@dataclass(frozen=True)
class Known:
    """N prompts × M cards."""

    grid: OutcomeGrid
    """Every prompt, in the order of the prompts table, with its reference and meta, and of every
    outcome how and when it came about. A score counts whether or not its cost is known, and a cost
    whether or not there is a score."""
    answered: Bools
    """[N, M] whether an answer is there that was not scored yet."""
    output_tokens: Floats
    """[M] mean length of a card's answers, NaN where it has none."""
    labels: Mapping[str, str]
    """What the table calls each card; the card's own name where it has none yet."""

    def __len__(self) -> int:
        return len(self.grid)

    def told(self, name: str, row: int) -> str | None:
        """A prompt's ``reference``, or its ``meta`` as stored; None where it has none."""
        column = self.grid.about.get(name)
        return None if column is None else column[row]


def read_known(
    table: OutcomeTable, cards: Sequence[ModelCard], *, rename: Mapping[str, str] | None = None
) -> Known:
    """The table as its cards see it. A model belongs to the card of its name (normalised, after
    ``rename``) or of its provider's name for it; outcomes of other models tell nothing.

    Raises:
        BackfillError: ``rename`` names a model or a card that does not exist.
        OutcomeError: the table is broken; every defect is listed.
    """
    table.validate().raise_if_bad()
    answered = pl.col("response").is_not_null().alias("answered")
    whole = table.grid(
        every=True,
        more=("score", "cost_usd", "output_tokens", *LOGGED, answered),
        about=("reference", "meta"),
    )
    more, shape = whole.more, whole.score.shape
    card_of = _cards(whole.models, cards, rename or {})
    names = tuple(card.name for card in cards)
    of_each = [card_of.get(model) for model in whole.models]
    own = [[m for m, card in enumerate(of_each) if card == name] for name in names]
    score = np.stack([_mean(more["score"][:, at], axis=1) for at in own], axis=1)
    there = more.get("answered", np.zeros(shape, dtype=np.bool_))
    unscored = np.stack([there[:, at].any(1) for at in own], axis=1) & np.isnan(score)
    tokens = more.get("output_tokens", np.full(shape, np.nan))
    return Known(
        dataclasses.replace(
            whole,
            models=names,
            cards=names,
            score=score,
            cost=np.stack([_mean(more["cost_usd"][:, at], axis=1) for at in own], axis=1),
            more={name: _first(more[name], own) for name in LOGGED if name in more},
        ),
        answered=unscored,
        output_tokens=np.array([float(_mean(tokens[:, at].ravel(), axis=0)) for at in own]),
        labels={name: name for name in names} | _labels(card_of),
    )


def _cards(
    models: Sequence[str], cards: Sequence[ModelCard], rename: Mapping[str, str]
) -> dict[str, str]:
    """The card of each model of the table that has one."""
    names = {card.name for card in cards}
    for model, card in rename.items():
        if model not in models:
            raise BackfillError(f"rename: the table has no model {model!r}; it has {models[:8]!r}")
        if card not in names:
            raise BackfillError(f"rename: no card is named {card!r}; cards: {sorted(names)!r}")
    # A card's own name goes before what a provider calls its model.
    by_name = {card.model_name: card.name for card in reversed(cards)}
    by_name |= {name: name for name in names}
    found: dict[str, str] = {}
    for model in models:
        ours = rename.get(model) or by_name.get(model) or by_name.get(card_name(model))
        if ours is not None:
            found[model] = ours
    return found


def _labels(card_of: Mapping[str, str]) -> dict[str, str]:
    """Per card the table's own name for it; the card's name where the table uses that as well."""
    labels: dict[str, str] = {}
    for model, card in sorted(card_of.items()):
        if model == card or card not in labels:
            labels[card] = model
    return labels


def _first(values: Column, own: Sequence[Sequence[int]]) -> Column:
    """[N, M] of each card the first of its models that has a value."""
    found = np.full((len(values), len(own)), None if values.dtype.kind == "O" else np.nan)
    found = found.astype(values.dtype)
    for card, models in enumerate(own):
        for model in reversed(models):
            column = values[:, model]
            there = np.array([one is not None and one == one for one in column], dtype=np.bool_)
            found[there, card] = column[there]
    return found


def _mean(values: Floats, *, axis: int) -> Floats:
    """The mean of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    count = known.sum(axis)
    total = np.where(known, values, 0.0).sum(axis)
    mean: Floats = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return mean
