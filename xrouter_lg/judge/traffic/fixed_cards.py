"""Every card in place of what was served: what it would have cost, and scored.

How is said in :mod:`xrouter_lg.judge.traffic.savings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.figures.bootstrap import Figure, figure
from xrouter_lg.judge.traffic.logged import LiveRequest, thread_mean
from xrouter_lg.judge.traffic.offpolicy import Logged, doubly_robust_values, estimate
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.said import answer_tokens, has_answered
from xrouter_lg.value.costs import family_costs
from xrouter_lg.value.evidence import Evidence
from xrouter_lg.value.posterior import Posterior, fit_posterior

_LENGTHS = 4
"""Bins of a request's length, with equally many requests each."""
_FOLDS = 5
_MOSTLY = 0.95
"""Share of the requests whose draw and cost must be known for a doubly robust cost."""

_EFFECTIVE = 30.0
"""Requests that the scores must be worth: below it an interval says too little of itself."""

By = Literal["doubly robust", "paid by kind", "price", "unknown"]


@dataclass(frozen=True)
class FixedCard:
    """One card for every request."""

    card: str
    usd: Figure
    """What the compared requests would have cost in all."""
    usd_by: By
    saved_usd: Figure
    """That less what was spent on them."""
    saved_share: Figure
    """The same as a share of what the card would have cost."""
    score: Figure | None
    """Mean score that was served less the card's, scores set right for their usual error; None
    where unknown."""
    utility: Figure | None
    """The same of score − λ · cost / c_ref; None also without that unit."""
    score_of: int
    """Scored requests that this is told by: those on which the card could have been drawn."""
    score_unknown: str | None
    """Why."""
    answered: int
    """Requests that the card answered."""
    barred: int
    """Requests that it could not have taken."""


class FixedCards:
    """N requests, and what each of M cards would have made of them."""

    def __init__(
        self,
        requests: Sequence[LiveRequest],
        kinds: Sequence[str] | None,
        pool: ModelPool | None,
        thumb_error: float,
    ) -> None:
        self.requests, self._pool, self._error = requests, pool, thumb_error
        names = {name for r in requests for name in (*r.record.candidates, *r.record.removed)}
        names |= {r.record.route for r in requests if r.record.route} - {"router"}
        self.cards = sorted(names)
        self._at = {name: m for m, name in enumerate(self.cards)}
        self.threads = [request.thread for request in requests]
        self.served_N = np.array([request.usd or 0.0 for request in requests])
        self.answered_N = np.array([r.record.route is not None for r in requests], dtype=np.bool_)
        self.cost_N_M, self.alone_N_M = self._paid()
        named, self.kind_N = np.unique(
            np.array(["" for _ in requests] if kinds is None else list(kinds), dtype=object),
            return_inverse=True,
        )
        self.kinds = len(named)
        self.kind_share = np.bincount(self.kind_N, minlength=self.kinds) / max(len(requests), 1)
        self.cell_N = self.kind_N * _LENGTHS + _length_bins(requests)
        _, thread_N = np.unique(np.array(self.threads, dtype=object), return_inverse=True)
        self.thread_N: Ints = thread_N.astype(np.int64)
        self.fold_N = np.random.default_rng(0).integers(
            0, _FOLDS, int(self.thread_N.max(initial=-1)) + 1
        )[self.thread_N]

    def _paid(self) -> tuple[Floats, Bools]:
        """[N, M] what a card's calls cost where it answered, NaN elsewhere; and where that was the
        whole request."""
        shape = len(self.requests), len(self.cards)
        cost, alone = np.full(shape, np.nan), np.zeros(shape, dtype=np.bool_)
        for n, request in enumerate(self.requests):
            for name, usd in answers_usd(request).items():
                if name in self._at:
                    cost[n, self._at[name]] = usd
                    alone[n, self._at[name]] = request.single and name == request.record.route
        return cost, alone

    def posterior(self) -> Posterior | None:
        """What every card scores on every kind, by all scores; None without one."""
        evidence = self._evidence(np.ones(len(self.requests), dtype=np.bool_))
        return fit_posterior(evidence, self.kind_N, self.kinds) if len(evidence) else None

    def mean_usd(self) -> tuple[Floats, list[By]]:
        """[M] mean cost of a request with each card, NaN where unknown, and by what it is told."""
        own = self._by_model(np.arange(len(self.requests)))
        by: list[By] = ["paid by kind" if known else "unknown" for known in np.isfinite(own[0])]
        for m, name in enumerate(self.cards):
            price_N = None if by[m] != "unknown" else self._by_price(name)
            if price_N is not None:
                own[:, m], by[m] = price_N, "price"
        return own.mean(0), by

    def compare(
        self, by: Sequence[By], rate: float | None, draws: int, seed: int
    ) -> tuple[FixedCard, ...]:
        """Every card against what was served; ``rate`` is what a USD is worth in score units."""
        usd_N_M = self._by_model(np.arange(len(self.requests)))
        told = {m: own for m in range(len(self.cards)) if (own := self._told(m, by[m]))}
        samples = self._samples({m: values for m, (_, values) in told.items()}, draws, seed)
        found = []
        for m, name in enumerate(self.cards):
            served, usd = samples[:, -1], samples[:, m]
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where(usd > 0, 1.0 - served / usd, np.nan)
            usd_N = told[m][1] if m in told else usd_N_M[:, m]
            score, utility, score_of, why = self._score(m, usd_N, rate, draws, seed)
            found.append(
                FixedCard(
                    name,
                    self._figure(usd),
                    told[m][0] if m in told else by[m],
                    self._figure(usd - served),
                    self._figure(share),
                    score,
                    utility,
                    score_of,
                    why,
                    sum(request.record.route == name for request in self.requests),
                    sum(name in request.record.removed for request in self.requests),
                )
            )
        return tuple(sorted(found, key=lambda one: -(one.usd.value or 0.0)))

    def usd_of(self, name: str) -> Floats | None:
        """[N] what each request would have cost with a card; None where that is unknown. Doubly
        robust ones are right on average, and single ones may be below 0."""
        m, by = self._at[name], self.mean_usd()[1]
        found = self._told(m, by[m])
        if found is not None:
            return found[1]
        own = self._by_model(np.arange(len(self.requests)))[:, m]
        return own if np.isfinite(own).all() else None

    def _told(self, m: int, by: By) -> tuple[By, Floats] | None:
        """Costs that are not learned from kinds and lengths alone, and by what."""
        if by == "paid by kind" and (robust_N := self._robust_usd(m)) is not None:
            return "doubly robust", robust_N
        if by == "price" and (price_N := self._by_price(self.cards[m])) is not None:
            return "price", np.where(self.answered_N, price_N, self.served_N)
        return None

    def _figure(self, samples: Floats) -> Figure:
        if not np.isfinite(samples).all():
            return Figure(None, None, None)
        if int(self.thread_N.max()) < 1:
            return Figure(float(samples[0]), None, None)
        return figure(samples)

    def _samples(self, told: Mapping[int, Floats], draws: int, seed: int) -> Floats:
        """[1 + draws, M + 1] sums over the requests, of whole threads drawn with replacement: each
        card's cost, and what was served. Row 0 is the sample itself."""
        rng = np.random.default_rng(seed)
        threads = int(self.thread_N.max()) + 1
        every = np.arange(len(self.requests))
        found = np.empty((1 + draws, len(self.cards) + 1))
        for draw in range(1 + draws):
            rows = every
            if draw:
                counts = np.bincount(rng.integers(0, threads, threads), minlength=threads)
                rows = np.repeat(every, counts[self.thread_N])
            model = self._by_model(rows)
            for m, values_N in told.items():
                model[:, m] = values_N[rows]
            # As many requests as there were, whatever threads were drawn.
            scale = len(every) / max(len(rows), 1)
            found[draw, :-1] = model.sum(0) * scale
            found[draw, -1] = self.served_N[rows].sum() * scale
        return found

    def _by_model(self, rows: Ints) -> Floats:
        """[R, M] cost with each card, learned from these rows alone."""
        cost, cell = self.cost_N_M[rows], self.cell_N[rows]
        expected = family_costs(cost, cell, self.kinds * _LENGTHS)[cell]
        found: Floats = np.where(self.alone_N_M[rows], cost, expected)
        return np.where(self.answered_N[rows, None], found, self.served_N[rows, None])

    def _by_price(self, name: str) -> Floats | None:
        """[N] the request's tokens at the card's price; None where nobody tells it."""
        if self._pool is None or name not in self._pool:
            return None
        own = self._pool[name]
        tokens = [answer_tokens(request.record.charges) for request in self.requests]
        usual = [said for _, said in tokens if said is not None]
        mean = round(float(np.mean(usual))) if usual else None
        found = []
        for asked, answered in tokens:
            usd = own.estimate_usd(asked or 0, mean if answered is None else answered)
            if usd is None:
                return None
            found.append(float(usd))
        return np.array(found)

    def _robust_usd(self, m: int) -> Floats | None:
        """[N] doubly robust cost with a card; None where the log's draws don't allow it."""
        drawn = self._drawn(lambda n, card: self.cost_N_M[n, card])
        if drawn is None or len(drawn.rows) < _MOSTLY * int(self.answered_N.sum()):
            return None
        expected = np.empty_like(self.cost_N_M)
        for fold in range(_FOLDS):
            out = self.fold_N == fold
            learned = family_costs(self.cost_N_M[~out], self.cell_N[~out], self.kinds * _LENGTHS)
            expected[out] = learned[self.cell_N[out]]
        if not np.isfinite(expected[:, m]).all():
            return None
        model = np.nan_to_num(expected)
        target = _always(m, drawn, len(self.cards))
        if estimate(drawn.log, target, model=model[drawn.rows]).refused:
            return None
        found = np.where(self.answered_N, model[:, m], self.served_N)
        found[drawn.rows] = doubly_robust_values(drawn.log, target, model[drawn.rows])
        return found

    def _score(
        self, m: int, usd_N: Floats, rate: float | None, draws: int, seed: int
    ) -> tuple[Figure | None, Figure | None, int, str | None]:
        """Mean score served less the card's, the same of utility at ``rate`` score units per USD,
        and of how many requests; or why nobody knows it."""
        drawn = self._drawn(
            lambda n, _: self._right(self.requests[n].score),
            lambda support: support is not None and support.get(self.cards[m], 0.0) > 0,
        )
        if drawn is None:
            scored = sum(request.score is not None for request in self.requests)
            return (
                None,
                None,
                0,
                (
                    f"{scored} answers have a score, none of them on a request on which this "
                    "card could have been drawn with a known probability: set exploration=0.05"
                    if scored
                    else "no answer has a score: ask users for feedback"
                ),
            )
        model = self._expected_scores()[drawn.rows]
        target = _always(m, drawn, len(self.cards))
        refused = estimate(drawn.log, target, model=model, min_effective=_EFFECTIVE).refused
        if refused:
            return None, None, len(drawn.rows), refused
        score_R = drawn.log.reward - doubly_robust_values(drawn.log, target, model)
        threads = [self.threads[n] for n in drawn.rows]
        options = {"draws": max(draws, 200), "seed": seed}
        score, utility = thread_mean(score_R, threads, **options), None
        if rate is not None and np.isfinite(usd_N).all():
            paid_R = self.served_N[drawn.rows] - usd_N[drawn.rows]
            utility = thread_mean(score_R - rate * paid_R, threads, **options)
        return score, utility, len(drawn.rows), None

    def _right(self, score: float | None) -> float | None:
        return None if score is None else (score - self._error) / (1.0 - 2.0 * self._error)

    def _expected_scores(self) -> Floats:
        """[N, M] by what is known of other threads."""
        found = np.full(self.cost_N_M.shape, 0.5)
        for fold in range(_FOLDS):
            out = self.fold_N == fold
            evidence = self._evidence(~out)
            if len(evidence):
                fitted = fit_posterior(evidence, self.kind_N, self.kinds)
                found[out] = fitted.mean_F_M[self.kind_N[out]]
        return found

    def _evidence(self, among_N: Bools) -> Evidence:
        rows = [
            (n, self._at[request.card], request.score, _chance(request))
            for n, request in enumerate(self.requests)
            if among_N[n]
            and request.single
            and request.score is not None
            and request.card == request.record.route
            and request.card in self._at
        ]
        prompt, card, score, chance = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Evidence(
            np.array(prompt, dtype=np.int64),
            np.array(card, dtype=np.int64),
            np.array(score, dtype=np.float64),
            np.full(len(rows), self._error),
            np.ones(len(rows)),
            np.array([np.nan if c is None else c for c in chance]),
            len(self.requests),
            len(self.cards),
        )

    def _drawn(
        self,
        reward: Callable[[int, int], float | None],
        able: Callable[[Mapping[str, float] | None], bool] = lambda _: True,
    ) -> _Drawn | None:
        """The requests whose draw is known, was of what is ``able``, and has a reward (of row and
        card)."""
        rows, actions, chances, rewards, supports = [], [], [], [], []
        for n, request in enumerate(self.requests):
            chance, card = _chance(request), request.card
            if chance is None or card not in self._at or card != request.record.route:
                continue
            if not able(request.support):
                continue
            value = reward(n, self._at[card])
            if value is None or not np.isfinite(value):
                continue
            rows.append(n)
            actions.append(self._at[card])
            chances.append(chance)
            rewards.append(float(value))
            supports.append(request.support)
        if not rows:
            return None
        support = None
        if all(known is not None for known in supports):
            support = np.array(
                [[(known or {}).get(name, 0.0) for name in self.cards] for known in supports]
            )
        log = Logged(np.array(actions), np.array(chances), np.array(rewards), support)
        return _Drawn(np.array(rows), log)


@dataclass(frozen=True)
class _Drawn:
    rows: Ints
    log: Logged


def _always(m: int, drawn: _Drawn, cards: int) -> Floats:
    """[R, M] probabilities of a policy that takes one card."""
    target = np.zeros((len(drawn.rows), cards))
    target[:, m] = 1.0
    return target


def answers_usd(request: LiveRequest) -> dict[str, float]:
    """USD of each card's answer in a request: its last call's, where that did not fail."""
    found: dict[str, float] = {}
    for charge in request.record.charges:
        if charge.get("kind") != "worker":
            continue
        name, usd = str(charge.get("card")), charge.get("cost_usd")
        found.pop(name, None)
        if has_answered(charge) and usd is not None:
            found[name] = float(usd)
    return found


def _chance(request: LiveRequest) -> float | None:
    """The probability with which its one card was drawn; None where nobody knows it. Within an arm
    of a canary it would be that arm's alone."""
    chance = request.record.propensity
    if not request.single or request.record.arm is not None or chance is None:
        return None
    return min(chance, 1.0) if chance > 0 else None


def _length_bins(requests: Sequence[LiveRequest]) -> Ints:
    """[N] which quarter of all requests each is in, by what it was to read."""
    asked = np.array(
        [np.nan if (n := answer_tokens(r.record.charges)[0]) is None else n for r in requests]
    )
    if not np.isfinite(asked).any():
        return np.zeros(len(requests), dtype=np.int64)
    asked = np.where(np.isfinite(asked), asked, np.nanmedian(asked))
    edges = np.unique(np.quantile(asked, np.arange(1, _LENGTHS) / _LENGTHS))
    found: Ints = np.searchsorted(edges, asked, side="left").astype(np.int64)
    return found
