"""What a learner in the stream is, and all that it is ever told.

A learner is asked for one card a request. What the answer cost it hears at once, what the user
thought of it late, for few answers, and sometimes wrongly; of cards that it did not ask it hears
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from xrouter_lg.arrays import Floats


class SharedFeatures(Protocol):
    """What a text looks like. They exist before the stream begins and know nothing of outcomes."""

    @property
    def dimension(self) -> int: ...

    def __call__(self, text: str) -> Floats:
        """[dimension], the last of them 1."""


@dataclass(frozen=True)
class Setting:
    """What a learner knows before the first request."""

    seed: int
    cost_weight: float
    c_ref_usd: float
    """USD that ``cost_weight`` counts in: utility is score − cost_weight × cost / c_ref."""
    thumb_error: float
    """Share of thumbs that say the opposite, as an operator would estimate it."""
    budget_usd: float
    """What the policy that is told everything spends on a request of this stream, on average: for
    a learner that takes a budget where ours takes a cost weight."""
    usual_usd: Mapping[str, float]
    """The cards there are at the start; see :attr:`Request.usual_usd`."""
    features: SharedFeatures
    own_features: SharedFeatures | None = None
    """Those that ParetoBandit brings, where its encoder is at hand."""

    def price(self, usd: float) -> float:
        """Utility that so much money costs."""
        return self.cost_weight * usd / self.c_ref_usd


@dataclass(frozen=True)
class Request:
    id: str
    at: int
    """The clock: how many requests came before."""
    text: str
    tokens: int
    """Of the prompt, estimated from its length."""
    usual_usd: Mapping[str, float]
    """The candidates that are there now; for each the USD that a request costs on average at
    today's list price. A new price shows here at once, a new model behind a name does not."""


@dataclass(frozen=True)
class Choice:
    card: str
    propensity: float
    """Above 0: how likely the learner was to pick this card, given all that it knew."""
    explored: bool = False
    """Another card looked better: this one was asked in order to learn."""


@dataclass(frozen=True)
class Billed:
    """What is known as soon as the answer is there."""

    id: str
    card: str
    served_model: str
    """As the provider names it."""
    cost_usd: float


@dataclass(frozen=True)
class Thumb:
    """What a user thought of an answer."""

    id: str
    up: bool


class Learner(Protocol):
    """Routes a stream and learns from it. Called in this order, for each request: ``rated`` for
    every thumb that has come in, ``retrain`` if it is due, ``choose``, ``answered``."""

    def choose(self, request: Request) -> Choice:
        """One of the candidates of this request."""

    def answered(self, billed: Billed) -> None:
        """The card that was chosen has answered."""

    def rated(self, thumb: Thumb) -> None:
        """A thumb on an earlier answer has come in. Most answers never get one."""

    def retrain(self) -> None:
        """Time for what is not learned with every thumb."""
