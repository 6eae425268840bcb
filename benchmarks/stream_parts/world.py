"""The world of the stream: an outcome table as users who ask, pay, and now and then give a thumb.

Prompts come in repeated shuffles: each once before any comes again. A request's order, and whether
its user would give a thumb, and a wrong one, are drawn before the stream begins: every learner
meets the same users. What a learner did not ask for stays in here.

- A thumb comes on 30 % of the answers, 100 requests late; up with the probability of the score,
  and then turned round in one of ten.
- The three events of :mod:`benchmarks.stream_parts.events`. The price of a swapped card stays what
  it was, and so does the name of what it serves: nothing but the answers tells of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.stream_parts import events
from benchmarks.stream_parts.events import Event, Phase
from benchmarks.stream_parts.learner import (
    Billed,
    Choice,
    Learner,
    Request,
    Setting,
    SharedFeatures,
    Thumb,
)
from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.outcomes.grid import OutcomeGrid

THUMB_SHARE, THUMB_ERROR = 0.3, 0.1
DELAY = 100
RETRAIN_EVERY = 500
_TOKEN = 4
"""Characters of a prompt that make a token, about."""


class StreamWorld:
    """One stream. What is not underscored is for learners that are told everything, and for
    figures."""

    def __init__(
        self,
        grid: OutcomeGrid,
        swapped: Floats,
        *,
        requests: int,
        cost_weight: float,
        seed: int,
    ) -> None:
        self.cards, self.requests, self.seed = grid.models, requests, seed
        self.cost_weight, self.c_ref_usd = cost_weight, grid.reference_cost()
        self.weight = cost_weight / self.c_ref_usd
        """Utility per USD."""
        users, happens = (np.random.default_rng([seed, i]) for i in range(2))
        self.events, self.phases = events.draw(
            grid, swapped, requests=requests, weight=self.weight, rng=happens
        )
        passes = -(-requests // len(grid))
        order = [users.permutation(len(grid)) for _ in range(passes)]
        self.prompt_T: Ints = np.concatenate(order)[:requests]
        self._thumb_T: Bools = users.random(requests) < THUMB_SHARE
        self._wrong_T: Bools = users.random(requests) < THUMB_ERROR
        self._mood_T: Floats = users.random(requests)
        self._texts = grid.prompts
        self._number = {name: i for i, name in enumerate(self.cards)}
        starts = np.array([phase.start for phase in self.phases])
        self.phase_T: Ints = (np.searchsorted(starts, np.arange(requests), "right") - 1).astype(
            np.int64
        )
        self.family_T: Ints = events.families(grid)[self.prompt_T]
        self.mean_PFM = np.stack(
            [phase.means(events.families(grid), self.weight) for phase in self.phases]
        )
        """[phases, families, cards] mean utility: all that is told to who is told everything."""
        self._offers = [self._usual_usd(phase) for phase in self.phases]

    @property
    def always(self) -> list[str]:
        """Cards that are there from the first request to the last."""
        present = np.all([phase.present for phase in self.phases], axis=0)
        return [name for name, there in zip(self.cards, present, strict=True) if there]

    @property
    def swap(self) -> Event:
        return next(event for event in self.events if event.kind == "swap")

    def setting(
        self, features: SharedFeatures, own_features: SharedFeatures | None = None
    ) -> Setting:
        told = [self.pay(t, self.told(t))[1] for t in range(self.requests)]
        return Setting(
            seed=self.seed,
            cost_weight=self.cost_weight,
            c_ref_usd=self.c_ref_usd,
            thumb_error=THUMB_ERROR,
            budget_usd=float(np.mean(told)),
            usual_usd=self._offers[0],
            features=features,
            own_features=own_features,
        )

    def _usual_usd(self, phase: Phase) -> dict[str, float]:
        # Each column by itself and contiguous: a sum must not round anew where no price changed.
        return {
            name: float(np.ascontiguousarray(phase.cost[:, card]).mean())
            for card, name in enumerate(self.cards)
            if phase.present[card]
        }

    def phase(self, t: int) -> Phase:
        return self.phases[int(self.phase_T[t])]

    def told(self, t: int) -> str:
        """The card that is best, now, for the kind of request that the t-th is."""
        return self.cards[int(self.mean_PFM[self.phase_T[t], self.family_T[t]].argmax())]

    def request(self, t: int) -> Request:
        text = self._texts[self.prompt_T[t]]
        offers = self._offers[self.phase_T[t]]
        return Request(f"r{t}", t, text, -(-len(text) // _TOKEN), offers)

    def pay(self, t: int, card: str) -> tuple[float, float]:
        """Score and USD of this card on the t-th request."""
        phase, cell = self.phase(t), (self.prompt_T[t], self._number[card])
        return float(phase.score[cell]), float(phase.cost[cell])

    def thumb(self, t: int, score: float) -> Thumb | None:
        """What the user of the t-th request lets know of an answer of this score."""
        if not self._thumb_T[t]:
            return None
        up = bool(self._mood_T[t] < score) != bool(self._wrong_T[t])
        return Thumb(f"r{t}", up)


@dataclass(frozen=True)
class Played:
    """How a learner did, request by request."""

    card_T: Ints
    score_T: Floats
    usd_T: Floats
    propensity_T: Floats
    explored_T: Bools
    utility_T: Floats


def play(
    world: StreamWorld, learner: Learner, tick: Callable[[int], None] = lambda done: None
) -> Played:
    """Send the stream through a learner; ``tick`` is told how many requests are done.

    Raises:
        ValueError: it picked what is no candidate, or states a propensity that is none.
    """
    choices: list[Choice] = []
    paid: list[tuple[float, float]] = []
    under_way: dict[int, Thumb] = {}
    for t in range(world.requests):
        if (late := under_way.pop(t, None)) is not None:
            learner.rated(late)
        if t and t % RETRAIN_EVERY == 0:
            learner.retrain()
        request = world.request(t)
        choice = learner.choose(request)
        _check(choice, request)
        score, usd = world.pay(t, choice.card)
        learner.answered(Billed(request.id, choice.card, choice.card, usd))
        if (thumb := world.thumb(t, score)) is not None:
            under_way[t + DELAY] = thumb
        choices.append(choice)
        paid.append((score, usd))
        if len(paid) % RETRAIN_EVERY == 0 or len(paid) == world.requests:
            tick(len(paid))
    score_T, usd_T = np.array(paid).T
    return Played(
        card_T=np.array([world.cards.index(choice.card) for choice in choices]),
        score_T=score_T,
        usd_T=usd_T,
        propensity_T=np.array([choice.propensity for choice in choices]),
        explored_T=np.array([choice.explored for choice in choices]),
        utility_T=score_T - world.weight * usd_T,
    )


def _check(choice: Choice, request: Request) -> None:
    if choice.card not in request.usual_usd:
        raise ValueError(
            f"request {request.at}: {choice.card!r} is no candidate: {sorted(request.usual_usd)}"
        )
    if not 0.0 < choice.propensity <= 1.0:
        raise ValueError(
            f"request {request.at}: propensity {choice.propensity!r} is not above 0 and at most 1"
        )
