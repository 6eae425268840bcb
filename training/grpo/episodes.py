"""Episodes of one decision each, out of an outcome source.

A batch of episodes is drawn at once: prompts, a subset of the pool in a shuffled slot order, prices
moved at random, and a cost weight for each. Over recorded outcomes
(:class:`training.data.outcome_source.RecordedOutcomes`) actions cost no API spend and are exact,
and everything is an array over episodes, so the speed is numpy's. Over workers
(:mod:`training.data.asking`) the same two methods call models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.config.sampling import Sampling
from training.data.outcome_source import OutcomeSource
from training.data.reward import Reward
from xrouter_lg.arrays import Bools, Floats, Ints

MUST_NOT_CALL = -2
"""Action: the router answers itself. It costs no call."""


@dataclass(frozen=True)
class Episodes:
    """B episodes of one decision each; S slots, the last ones empty in smaller pools."""

    prompt_B: Ints
    """Row of the outcome table."""
    card_B_S: Ints
    """Card in each slot, -1 where the slot is empty."""
    price_factor_B_S: Floats
    """What each slot's costs are multiplied with."""
    cost_weight_B: Floats

    def __len__(self) -> int:
        return len(self.prompt_B)

    @property
    def legal_B_S(self) -> Bools:
        legal: Bools = self.card_B_S >= 0
        return legal


def in_rounds(prompts: Ints, wanted: int, rng: np.random.Generator) -> Ints:
    """So many prompts: all of them in random order, round and round."""
    rounds = -(-wanted // len(prompts))
    return np.concatenate([rng.permutation(prompts) for _ in range(rounds)])[:wanted]


def whole_pool(prompts: Ints, cards: int, weights: Sequence[float]) -> Episodes:
    """Every prompt at every cost weight, all cards in their own slots at their own prices."""
    prompt_B = np.repeat(prompts, len(weights))
    return Episodes(
        prompt_B=prompt_B,
        card_B_S=np.tile(np.arange(cards), (len(prompt_B), 1)),
        price_factor_B_S=np.ones((len(prompt_B), cards)),
        cost_weight_B=np.tile(np.array(weights, dtype=np.float64), len(prompts)),
    )


@dataclass(frozen=True)
class Outcomes:
    """What came of one action per episode; NaN where a score or a cost is unknown."""

    score_B: Floats
    cost_usd_B: Floats
    """Calls and the router's own tokens."""
    reward_B: Floats


class EpisodeEnvironment:
    """Episodes over N prompts × M cards of a source.

    A slot is legal only if its card can be asked about the prompt. ``must_not_call_N`` marks
    prompts that the router should answer itself (small talk): calling scores 0 there whatever the
    source says, answering scores 1; elsewhere answering scores 0.

    Raises:
        ValueError: a prompt that no card can be asked about, or marks of another number.
    """

    def __init__(
        self,
        source: OutcomeSource,
        reward: Reward,
        *,
        sampling: Sampling | None = None,
        router_cost_usd: float = 0.0,
        must_not_call_N: Sequence[bool] | None = None,
    ) -> None:
        prompts = source.shape[0]
        possible_N = source.askable().any(1)
        if not possible_N.all():
            row = int(np.flatnonzero(~possible_N)[0])
            raise ValueError(f"prompt {row} has no outcome with a known score and cost; drop it")
        self.source, self.reward = source, reward
        self.sampling = sampling or Sampling()
        self.router_cost_usd = router_cost_usd
        direct = [False] * prompts if must_not_call_N is None else must_not_call_N
        self._direct_N: Bools = np.array(direct, dtype=np.bool_)
        if len(self._direct_N) != prompts:
            raise ValueError(f"{len(self._direct_N)} marks for {prompts} prompts")

    def sample(
        self, episodes: int, rng: np.random.Generator, prompts: Ints | None = None
    ) -> Episodes:
        """Draw prompts (or take ``prompts``, one per episode), candidates in slots, price factors
        and cost weights."""
        how, known_N_M = self.sampling, self.source.askable()
        cards = known_N_M.shape[1]
        if prompts is None:
            # A live source whose money is spent can't be asked about every prompt any more.
            possible = np.flatnonzero(known_N_M.any(1))
            prompts = possible[rng.integers(0, len(possible), episodes)]
        prompt_B = prompts
        known_B_M = known_N_M[prompt_B]
        # A random key per card deals a subset: the smallest keys are in, unknown ones never.
        key_B_M = np.where(known_B_M, rng.random((episodes, cards)), np.inf)
        least = min(how.smallest_pool, cards)
        size_B = np.minimum(rng.integers(least, cards + 1, episodes), known_B_M.sum(1))
        dealt_B_M = np.argsort(key_B_M, axis=1)
        inside_B_S = np.arange(cards) < size_B[:, None]
        if how.permute:
            card_B_S = np.where(inside_B_S, dealt_B_M, -1)
        else:
            chosen_B_M = np.zeros((episodes, cards), dtype=np.bool_)
            np.put_along_axis(chosen_B_M, dealt_B_M, inside_B_S, axis=1)
            card_B_S = np.where(chosen_B_M, np.arange(cards), -1)
        factor_B_M = np.exp(rng.normal(0.0, how.price_jitter, (episodes, cards)))
        weight_B = np.exp(
            rng.uniform(np.log(how.cost_weight_low), np.log(how.cost_weight_high), episodes)
        )
        weight_B = np.where(rng.random(episodes) < how.quality_only_share, 0.0, weight_B)
        return Episodes(
            prompt_B=prompt_B,
            card_B_S=card_B_S,
            price_factor_B_S=np.take_along_axis(factor_B_M, np.maximum(card_B_S, 0), axis=1),
            cost_weight_B=weight_B,
        )

    def step(self, episodes: Episodes, slot_B: Ints) -> Outcomes:
        """What the chosen slots gave.

        Raises:
            ValueError: a slot that is empty or out of range.
        """
        rows = np.arange(len(episodes))
        direct_B = slot_B == MUST_NOT_CALL
        slot = np.where(direct_B, 0, slot_B)
        width = episodes.card_B_S.shape[1]
        if bool(((slot < 0) | (slot >= width)).any()):
            raise ValueError(f"slots must lie in 0..{width - 1}, got {slot_B}")
        card_B = episodes.card_B_S[rows, slot]
        if bool(((card_B < 0) & ~direct_B).any()):
            raise ValueError(f"slot {slot_B[(card_B < 0) & ~direct_B][0]} holds no candidate")
        prompt_B, wanted_B = episodes.prompt_B, self._direct_N[episodes.prompt_B]
        score_B = wanted_B.astype(np.float64)
        cost_B = np.full(len(episodes), self.router_cost_usd)
        called = np.flatnonzero(~direct_B)
        if len(called):
            found, paid = self.source.ask(prompt_B[called], card_B[called])
            score_B[called] = np.where(wanted_B[called], 0.0, found)
            cost_B[called] += paid * episodes.price_factor_B_S[called, slot[called]]
        reward_B = self.reward.many(score_B, cost_B, episodes.cost_weight_B)
        return Outcomes(score_B, cost_B, reward_B)
