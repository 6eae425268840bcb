"""Policies that learn nothing: one card always, any card, and the one that is told everything."""

from __future__ import annotations

import numpy as np

from benchmarks.stream_parts.learner import Billed, Choice, Request, Setting, Thumb
from benchmarks.stream_parts.world import StreamWorld


class _Unmoved:
    def answered(self, billed: Billed) -> None:
        """It is not listened to."""

    def rated(self, thumb: Thumb) -> None:
        """It is not listened to."""

    def retrain(self) -> None:
        """There is nothing to train."""


class Fixed(_Unmoved):
    """One card, whatever is asked."""

    def __init__(self, card: str) -> None:
        self._choice = Choice(card, 1.0)

    def choose(self, request: Request) -> Choice:
        return self._choice


class AtRandom(_Unmoved):
    """Any candidate, each as likely as any other."""

    def __init__(self, setting: Setting) -> None:
        self._rng = np.random.default_rng([setting.seed, 11])

    def choose(self, request: Request) -> Choice:
        cards = sorted(request.usual_usd)
        return Choice(cards[self._rng.integers(len(cards))], 1 / len(cards), explored=True)


class ToldEverything(_Unmoved):
    """The card with the best mean utility for the labelled kind of the request, as the world is
    now: it knows every outcome, every label, and every event as it happens."""

    def __init__(self, world: StreamWorld) -> None:
        self._world = world

    def choose(self, request: Request) -> Choice:
        return Choice(self._world.told(request.at), 1.0)
