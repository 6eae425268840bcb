"""Where the outcome of asking a card about a prompt comes from: recordings, or workers.

A source is asked about pairs of prompt and card, many at once, and gives score and cost. NaN means
unknown: never recorded, a verifier or a worker that failed, or no money left. What is unknown
leaves the batch; it is no zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from xrouter_lg.arrays import Bools, Floats, Ints


@dataclass(frozen=True)
class AnswerText:
    """What a card answered."""

    text: str
    truncated: bool = False


class OutcomeSource(Protocol):
    """Outcomes of N prompts × M cards."""

    @property
    def shape(self) -> tuple[int, int]:
        """(N, M)."""
        ...

    def askable(self) -> Bools:
        """[N, M] pairs that can be asked about now."""
        ...

    def ask(self, prompt_B: Ints, card_B: Ints) -> tuple[Floats, Floats]:
        """Scores [B] and costs [B] in USD of calling each card with each prompt."""
        ...

    def answer(self, prompt: int, card: int) -> AnswerText | None:
        """What the card answered; None before :meth:`ask`, or where no text was kept."""
        ...


class RecordedOutcomes:
    """Outcomes out of a table; NaN in ``score_N_M`` or ``cost_usd_N_M`` where a card was never
    asked. ``texts`` are the recorded answers, for whoever shows them to a policy.

    Raises:
        ValueError: shapes that differ.
    """

    def __init__(
        self,
        score_N_M: Floats,
        cost_usd_N_M: Floats,
        texts: Sequence[Sequence[str | None]] | None = None,
    ) -> None:
        if score_N_M.ndim != 2 or score_N_M.shape != cost_usd_N_M.shape:
            raise ValueError(f"scores {score_N_M.shape} and costs {cost_usd_N_M.shape} must agree")
        if texts is not None and (len(texts), len(texts[0])) != score_N_M.shape:
            raise ValueError(f"{len(texts)} rows of answers for scores {score_N_M.shape}")
        self._score, self._cost, self._texts = score_N_M, cost_usd_N_M, texts
        self._known: Bools = np.isfinite(score_N_M) & np.isfinite(cost_usd_N_M)

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self._score.shape
        return rows, columns

    def askable(self) -> Bools:
        return self._known

    def ask(self, prompt_B: Ints, card_B: Ints) -> tuple[Floats, Floats]:
        return self._score[prompt_B, card_B], self._cost[prompt_B, card_B]

    def answer(self, prompt: int, card: int) -> AnswerText | None:
        text = None if self._texts is None else self._texts[prompt][card]
        return None if text is None else AnswerText(text)


class StackedOutcomes:
    """The prompts of one source, then those of another, about the same cards.

    Raises:
        ValueError: another number of cards.
    """

    def __init__(self, first: OutcomeSource, second: OutcomeSource) -> None:
        if first.shape[1] != second.shape[1]:
            raise ValueError(f"{first.shape[1]} and {second.shape[1]} cards: they must agree")
        self._parts, self._first = (first, second), first.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        first, second = self._parts
        return first.shape[0] + second.shape[0], first.shape[1]

    def askable(self) -> Bools:
        return np.concatenate([part.askable() for part in self._parts])

    def ask(self, prompt_B: Ints, card_B: Ints) -> tuple[Floats, Floats]:
        score_B, cost_B = np.empty(len(prompt_B)), np.empty(len(prompt_B))
        later_B = prompt_B >= self._first
        for part, own_B, before in zip(
            self._parts, (~later_B, later_B), (0, self._first), strict=True
        ):
            if own_B.any():
                score_B[own_B], cost_B[own_B] = part.ask(prompt_B[own_B] - before, card_B[own_B])
        return score_B, cost_B

    def answer(self, prompt: int, card: int) -> AnswerText | None:
        if prompt < self._first:
            return self._parts[0].answer(prompt, card)
        return self._parts[1].answer(prompt - self._first, card)
