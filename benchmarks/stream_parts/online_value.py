"""A value model that learns while requests come in, from nothing at the start.

Families are found when it is retrained; what is known of the cards in them is fitted again after
every few outcomes, and every few outcomes it is asked whether a card has silently changed
(:mod:`xrouter_lg.value.change`). Costs are learned as multiples of the usual one, so that a
new price counts at once. A request is told by its text: the same text is the same request.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.stream_parts.explore import roots
from benchmarks.stream_parts.read_requests import ReadRequests
from xrouter_lg.arrays import Bools, Floats, Ints, sums
from xrouter_lg.value.change import (
    HAZARD,
    best_half_life,
    faded,
    find_change,
    residuals,
    since_change,
)
from xrouter_lg.value.costs import family_costs
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.features import Features
from xrouter_lg.value.posterior import Posterior, fit_posterior, unlearned

ROUNDS = 12
"""Of expectation maximisation."""
_TEST_EVERY = 5
"""Outcomes after which cards are tested for a change."""
_GROWTH = 0.05
"""Share of new outcomes after which the posterior is fitted again."""


@dataclass(frozen=True)
class Outlook:
    """What is expected of M cards on one request."""

    mean_M: Floats
    """Score."""
    root_M_Z: Floats
    """A root of its covariance."""
    cost_ratio_M: Floats
    """Cost over what a request usually costs."""


@dataclass(frozen=True)
class Alarm:
    """A card is not any more what it was."""

    card: str
    since: float
    """When that began."""
    size: float | None
    """By how much its score moved; None where the provider says that it serves another model."""


@dataclass
class _Asked:
    row: int
    card: int
    at: float
    score: float = np.nan
    error: float = 0.0


class OnlineValue:
    def __init__(
        self,
        cards: Sequence[str],
        *,
        hazard: float = HAZARD,
        read: Callable[[Features | None, int], ReadRequests] = ReadRequests,
    ) -> None:
        """``read`` finds families in requests, given how many of them have an outcome."""
        self.cards = list(cards)
        self.alarms: list[Alarm] = []
        self.half_life: float | None = None
        """On the clock of the requests; None: nothing is forgotten with time."""
        self._hazard, self._read = hazard, read
        self._row: dict[str, int] = {}
        self._open: dict[str, _Asked] = {}
        self._scored: list[_Asked] = []
        self._paid: list[tuple[int, int, float]] = []
        self._served: dict[int, str] = {}
        self._since: dict[int, float] = {}
        self._shift: dict[int, tuple[float, float]] = {}
        self._reading = ReadRequests()
        self._fitted = 0
        self._posteriors = [unlearned(1, len(self.cards))]
        self._settle()
        self._learn_costs()

    def join(self, card: str) -> None:
        """One more card, of which nothing is known but that it is one of these.

        Raises:
            ValueError: it is there already.
        """
        if card in self.cards:
            raise ValueError(f"{card!r} is there already: {', '.join(self.cards)}")
        self.cards.append(card)
        self._fit()

    def outlook(self, text: str) -> Outlook:
        shares, cards = self._reading.shares(text), len(self.cards)
        parts = len(shares)
        mean, ratio, flat = (
            np.array([share @ one for share, one in zip(shares, table, strict=True)])
            for table in (self._mean, self._ratio, self._root)
        )
        root = flat.reshape(parts, cards, cards).transpose(1, 0, 2).reshape(cards, -1) / parts
        return Outlook(mean.mean(0), root, ratio.mean(0))

    def asked(self, id: str, text: str, card: str, at: float) -> None:
        """A card is asked; ``at`` is now, on any clock that never goes back."""
        row = self._row.setdefault(text, len(self._row))
        self._open[id] = _Asked(row, self.cards.index(card), at)

    def answered(self, id: str, cost_ratio: float | None, served_model: str | None) -> Alarm | None:
        """What the answer cost over what a request usually costs, and who gave it, as far as that
        is known. Where another model serves a card, what was known of the card is forgotten.

        Raises:
            KeyError: nothing was asked under this id, or its score has come in.
        """
        asked = self._open[id]
        if cost_ratio is not None:
            self._paid.append((asked.row, asked.card, cost_ratio))
        before = self._served.get(asked.card)
        if served_model is None or served_model == before:
            return None
        self._served[asked.card] = served_model
        if before is None:
            return None
        alarm = self._changed(asked.card, asked.at, asked.at, None)
        self._fit()
        return alarm

    def scored(self, id: str, score: float, error: float, now: float) -> list[Alarm]:
        """An outcome has come in, whose ``score`` is the opposite of the truth with probability
        ``error``; the cards that turn out to have changed.

        Raises:
            KeyError: nothing was asked under this id, or its score has come in before.
        """
        asked = self._open.pop(id)
        asked.score, asked.error = score, error
        self._scored.append(asked)
        known = len(self._scored)
        if known % _TEST_EVERY:
            return []
        alarms = self._test(now)
        if alarms or known >= self._fitted * (1.0 + _GROWTH):
            self._fit()
        else:
            self._settle()
        return alarms

    def retrain(self) -> None:
        """Find families in the requests so far, and how fast to forget."""
        texts, known = list(self._row), self._reading.features
        if len(texts) < 2:
            return
        if known is None or len(known) != len(texts):
            known = Features.of(texts)
        self._reading = self._read(known, len({asked.row for asked in self._scored}))
        if self._scored:
            evidence, at_R = self._evidence()
            since = since_change(evidence, at_R, self._since_M())
            family_N = self._reading.families(texts)[0]
            self.half_life = best_half_life(since, at_R, family_N, self._reading.sizes[0])
        self._fit()

    def _evidence(self) -> tuple[Evidence, Floats]:
        """All outcomes in order of the requests they are of, and when those were."""
        rows = sorted(self._scored, key=lambda asked: asked.at)
        count = len(rows)
        return Evidence(
            np.array([asked.row for asked in rows], dtype=np.int64),
            np.array([asked.card for asked in rows], dtype=np.int64),
            np.array([asked.score for asked in rows], dtype=np.float64),
            np.array([asked.error for asked in rows], dtype=np.float64),
            np.ones(count),
            # Within a family all requests are explored alike: there is nothing to undo.
            np.full(count, np.nan),
            len(self._row),
            len(self.cards),
        ), np.array([asked.at for asked in rows], dtype=np.float64)

    def _since_M(self) -> Floats:
        return np.array([self._since.get(card, -np.inf) for card in range(len(self.cards))])

    def _test(self, now: float) -> list[Alarm]:
        evidence, at_R = self._evidence()
        families = self._reading.families(list(self._row))
        expected_R = np.mean(
            [
                value.mean_F_M[own[evidence.prompt_R], evidence.card_R]
                for value, own in zip(self._posteriors, families, strict=True)
            ],
            axis=0,
        )
        residual_R, variance_R = residuals(evidence, expected_R)
        alarms = []
        for card in np.unique(evidence.card_R).tolist():
            own: Bools = (evidence.card_R == card) & (at_R >= self._since.get(card, -np.inf))
            found = find_change(residual_R[own], variance_R[own], hazard=self._hazard)
            self._shift[card] = (found.shift, found.spread)
            if found.alarm:
                since = float(at_R[own][found.at])
                alarms.append(self._changed(card, since, now, found.size))
        return alarms

    def _changed(self, card: int, since: float, now: float, size: float | None) -> Alarm:
        self._since[card] = since
        self._shift.pop(card, None)
        alarm = Alarm(self.cards[card], since, size)
        self.alarms.append(alarm)
        return alarm

    def _fit(self) -> None:
        families = self._reading.families(list(self._row))
        if self._scored:
            evidence, at_R = self._evidence()
            evidence = since_change(evidence, at_R, self._since_M())
            evidence = faded(evidence, at_R, self.half_life)
            self._posteriors = [
                fit_posterior(evidence, own, size, rounds=ROUNDS)
                for own, size in zip(families, self._reading.sizes, strict=True)
            ]
        else:
            self._posteriors = [unlearned(size, len(self.cards)) for size in self._reading.sizes]
        self._fitted = len(self._scored)
        self._settle()
        self._learn_costs(families)

    def _settle(self) -> None:
        """What decisions go by: the posteriors, and changes as far as they are likely."""
        moved = [_moved(value, self._shift) for value in self._posteriors]
        self._mean = [value.mean_F_M for value in moved]
        self._root = [roots(value).reshape(len(value.mean_F_M), -1) for value in moved]

    def _learn_costs(self, families: Sequence[Ints] = ()) -> None:
        """[F, M] cost over the usual, by partition; of a card that was never paid, the others'."""
        cards = len(self.cards)
        if not self._paid or not families:
            self._ratio = [np.ones((size, cards)) for size in self._reading.sizes]
            return
        row, card, ratio = (np.array(column) for column in zip(*self._paid, strict=True))
        cell, size = row * cards + card, len(self._row) * cards
        count = np.bincount(cell, minlength=size)
        paid = sums(cell, ratio, size) / np.where(count > 0, count, np.nan)
        self._ratio = []
        for own, number in zip(families, self._reading.sizes, strict=True):
            found = family_costs(paid.reshape(-1, cards), own, number)
            share_F = np.bincount(own, minlength=number) / len(own)
            found = found / np.maximum(share_F @ found, 1e-12)
            usual_F = np.nanmean(found, axis=1, keepdims=True)
            self._ratio.append(np.where(np.isfinite(found), found, usual_F))


def _moved(value: Posterior, shift: dict[int, tuple[float, float]]) -> Posterior:
    """With some cards' scores shifted by so much, known to such a standard deviation."""
    if not shift:
        return value
    mean, covariance = value.mean_F_M.copy(), value.covariance_F_M_M.copy()
    for card, (by, spread) in shift.items():
        mean[:, card] = np.clip(mean[:, card] + by, 0.0, 1.0)
        covariance[:, card, card] += spread**2
    return replace(value, mean_F_M=mean, covariance_F_M_M=covariance)
