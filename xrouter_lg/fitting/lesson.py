"""What a checkpoint is fitted on: outcomes to learn from, outcomes held out, and what is known of
the cards. Whoever reads a table (the command line, a training run) makes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.parts import CardStats
from xrouter_lg.fitting.held_out import PoolPart, parts_of
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.near import NearDuplicates
from xrouter_lg.pool.card import normalise_name
from xrouter_lg.pool.pool import ModelPool

_EDGE = 0.01
"""Success probabilities are kept this far from 0 and 1: log-odds stay finite."""


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One table, its two halves, and its cards."""

    train: OutcomeGrid
    """May have holes: prompts of which only some cards' outcomes are known."""
    test: OutcomeGrid
    """Without holes; empty where the table has too few prompts without."""
    parts: tuple[PoolPart, ...]
    """The pools of the table; none where nothing is held out."""
    cards: tuple[str, ...]
    """In the order of the table's models."""
    c_ref_usd: float
    best_fixed: str
    """A card."""
    score_M: Floats
    """Mean score of each card over the training prompts; as expected, where they have holes."""
    mean_usd_M: Floats
    """Mean cost of each card over the training prompts; as expected, where they have holes."""
    output_tokens_M: Floats
    prices: Sequence[Mapping[str, str] | None]
    data: Mapping[str, Any]
    """What the manifest records for the judge to find the same table and halves again."""
    config: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        table: OutcomeGrid,
        train: OutcomeGrid,
        test: OutcomeGrid,
        *,
        pool: str | Path,
        split_seed: int,
        near: NearDuplicates,
        config: Mapping[str, Any],
        **further: Any,
    ) -> Self:
        """The lesson of a table that was split at random. ``pool`` is a pool file or empty, and
        ``further`` is recorded beside what every lesson records."""
        cards = tuple(normalise_name(name) for name in table.models)
        # With several pools the best fixed model of the largest.
        largest = max(train.parts(), key=len)
        return cls(
            train=train,
            test=test,
            parts=parts_of(train, test),
            cards=cards,
            c_ref_usd=train.reference_cost(),
            best_fixed=normalise_name(largest.models[largest.best_fixed()]),
            score_M=np.nanmean(train.score, axis=0),
            mean_usd_M=np.nanmean(train.cost, axis=0),
            output_tokens_M=mean_output_tokens(train),
            prices=card_prices(pool, cards),
            data={
                "fingerprint": table.fingerprint(),
                "train_prompts": len(train),
                "test_prompts": len(test),
                "split": "random",
                "split_seed": split_seed,
                "families": sorted(set(train.families)),
                "near_duplicates": near.to_dict(),
                **further,
            },
            config=config,
        )

    def stats(
        self,
        prior_M: Floats | None = None,
        centre_M: Floats | None = None,
        lines: Sequence[str] | None = None,
    ) -> tuple[CardStats, ...]:
        """The manifest's cards; centres and lines belong to slots."""
        prior = log_odds(self.score_M) if prior_M is None else prior_M
        return tuple(
            CardStats(
                name=name,
                line="" if lines is None else lines[m],
                prior=float(prior[m]),
                centre=0.0 if centre_M is None else float(centre_M[m]),
                output_tokens=float(self.output_tokens_M[m]),
                cost_usd=float(self.mean_usd_M[m]),
                price=self.prices[m],
            )
            for m, name in enumerate(self.cards)
        )


def tokens_of(prompts: Sequence[str]) -> Floats:
    """[N] tokens of prompts, about."""
    return np.array([len(prompt) / 4 for prompt in prompts])


def prior_log_odds(score_N_M: Floats) -> Floats:
    """Log-odds [M] of each card's mean score over the prompts where it is known."""
    return log_odds(np.nanmean(score_N_M, axis=0))


def log_odds(share: Floats) -> Floats:
    """Of success probabilities, kept finite."""
    clipped = np.clip(share, _EDGE, 1.0 - _EDGE)
    odds: Floats = np.log(clipped / (1.0 - clipped))
    return odds


def card_prices(pool: str | Path, cards: Sequence[str]) -> list[Mapping[str, str] | None]:
    """The cards' prices today, where a pool file is given: a later one is seen by them."""
    if not pool:
        return [None] * len(cards)
    there = ModelPool.from_yaml(pool, reload=False)
    prices = [there[name].effective_price if name in there.names else None for name in cards]
    return [None if price is None else price.to_dict() for price in prices]


def mean_output_tokens(train: OutcomeGrid) -> Floats:
    """[M] mean output tokens per model over these prompts; 0 where none are recorded."""
    tokens = train.more.get("output_tokens")
    if tokens is None:
        return np.zeros(len(train.models))
    known = train.candidates & np.isfinite(tokens)
    total = np.where(known, tokens, 0.0).sum(0)
    return np.asarray(total / np.maximum(known.sum(0), 1), dtype=np.float64)
