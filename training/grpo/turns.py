"""Episodes as a trainer sees them: states, letters, and what a letter earned.

A state is a prompt with the letters that are legal in it; an action is the number of a letter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.grpo.episodes import EpisodeEnvironment, Episodes
from xrouter_lg.arrays import Bools, Floats, Ints


@dataclass(frozen=True)
class TurnState:
    """A decision to be taken among L letters."""

    prefix: str
    question: str
    legal_L: Bools
    prior_L: Floats
    """Log-odds that each letter starts from."""
    penalty_L: Floats
    """λ · expected cost / c_ref of each letter, in score points."""


@dataclass(frozen=True)
class Results:
    """What B episodes earned."""

    reward_B: Floats
    """NaN where an outcome is unknown: the sample leaves the batch."""
    metrics: Mapping[str, float]
    """Means over the batch: score, cost_usd, legal, share/<card> and the like."""


class OneTurn:
    """Episodes of one decision over recorded or live outcomes.

    ``prefix_of(cards)`` renders the candidate block of these cards, in this order. Where slots are
    not dealt anew the block always holds all cards, as in serving, and those that are no candidates
    are merely illegal. ``expected_usd_N_M`` is what the decision expects each card to cost.
    """

    def __init__(
        self,
        environment: EpisodeEnvironment,
        episodes: Episodes,
        questions: Sequence[str],
        prefix_of: Callable[[Sequence[int]], str],
        *,
        prior_M: Floats,
        expected_usd_N_M: Floats,
        names: Sequence[str],
    ) -> None:
        self._environment, self._episodes, self._questions = environment, episodes, questions
        self._prefix_of, self._names = prefix_of, names
        self._prior, self._expected = prior_M, expected_usd_N_M
        self._whole = prefix_of(range(len(names)))

    def __len__(self) -> int:
        return len(self._episodes)

    def state(self, episode: int) -> TurnState:
        """The decision of an episode."""
        cards_S, prompt = self._episodes.card_B_S[episode], int(self._episodes.prompt_B[episode])
        legal_S = cards_S >= 0
        held_S = np.maximum(cards_S, 0)
        usd_S = self._expected[prompt, held_S] * self._episodes.price_factor_B_S[episode]
        weight = self._episodes.cost_weight_B[episode] / self._environment.reward.c_ref_usd
        dealt = self._environment.sampling.permute
        return TurnState(
            prefix=self._prefix_of(cards_S[legal_S].tolist()) if dealt else self._whole,
            question=self._questions[prompt],
            legal_L=legal_S,
            prior_L=self._prior[held_S],
            penalty_L=weight * usd_S,
        )

    def results(self, episodes: Sequence[int], letters: Sequence[int] | Ints) -> Results:
        """What episodes earned by the letters taken in them."""
        return earned(self._environment, self._episodes, episodes, letters, self._names)


def earned(
    environment: EpisodeEnvironment,
    played: Episodes,
    episodes: Sequence[int],
    letters: Sequence[int] | Ints,
    names: Sequence[str],
) -> Results:
    """What some of the episodes ``played`` earned by the letters taken in them."""
    index, slot_B = np.asarray(episodes), np.asarray(letters)
    chosen = Episodes(
        played.prompt_B[index],
        played.card_B_S[index],
        played.price_factor_B_S[index],
        played.cost_weight_B[index],
    )
    outcome = environment.step(chosen, slot_B)
    card_B = chosen.card_B_S[np.arange(len(index)), slot_B]
    metrics = {
        "score": mean_known(outcome.score_B),
        "cost_usd": mean_known(outcome.cost_usd_B),
        # step() refuses anything else.
        "legal": 1.0,
        **{f"share/{name}": float((card_B == m).mean()) for m, name in enumerate(names)},
    }
    return Results(outcome.reward_B, metrics)


def mean_known(values: Floats) -> float:
    """Mean over what is known; NaN when nothing is."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
