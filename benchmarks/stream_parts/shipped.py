"""The shipped loop, put to the stream's questions: what a user has who installs the package.

- A checkpoint serves by its own policy (:class:`~xrouter_lg.policies.head.HeadPolicy`), and the
  router's :class:`~xrouter_lg.routing.exploration.Explorer` draws which card is called. Before
  there is a checkpoint the cheapest card serves, and more is explored.
- Every 500 requests is a night of `xrouter learn`: what the log tells is learned from, concluded
  from, and the checkpoint serves, or one card does, if that is the conclusion.
- After every few thumbs cards are tested for a change as `xrouter drift` tests them. An alarm is a
  night at once.

A request is taken to be 1,000 output tokens where it costs what it usually does, so that a price
per token is the usual cost of a request, and a new one is known at once.
"""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from langchain_core.messages import HumanMessage

from benchmarks.stream_parts.learner import Billed, Choice, Request, Setting, Thumb
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.fitting.from_log import learned_from, write_from_log
from xrouter_lg.fitting.read_lesson import LessonSettings
from xrouter_lg.judge.one_sided import conclude_from_log
from xrouter_lg.judge.traffic.success import change_since
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.policies.head import HeadPolicy
from xrouter_lg.policies.trained import proposed
from xrouter_lg.policies.utility import load_head
from xrouter_lg.pool.card import ModelCard, normalise_name
from xrouter_lg.routing.exploration import Exploration, Explorer
from xrouter_lg.types import Proposal, RouteRequest

FIRST = Exploration(rate=0.3, share_of_spend=None)
"""Before there is a checkpoint."""
LATER = Exploration(rate=0.05, share_of_spend=None, floor=0.01)
"""Thompson sampling of one request in twenty, as the documents have it."""
_TOKENS = 1000
_MINUTE = 60.0
"""Seconds between two requests, for the log's clock."""
_WATCH_EVERY = 10
"""Thumbs."""


@dataclass
class _Logged:
    text: str
    card: str
    at: int
    propensity: float
    usual_usd: float
    expected: float
    """Score; NaN before there is a checkpoint."""
    usd: float = np.nan
    score: float = np.nan


class ShippedLoop:
    def __init__(
        self, setting: Setting, *, first: Exploration = FIRST, later: Exploration = LATER
    ) -> None:
        self.conclusions: list[str] = []
        """Of every night that came to one: ``checkpoint``, ``fixed`` or ``as it is``."""
        self._setting = setting
        source = random.Random(setting.seed)
        self._first, self._later = Explorer(first, source), Explorer(later, source)
        self._log: dict[str, _Logged] = {}
        self._policy: HeadPolicy | None = None
        self._fixed: str | None = None
        """The card that serves every request, where that was the conclusion."""
        self._folder = tempfile.TemporaryDirectory(prefix="xrouter-stream-")
        self._thumbs = self._watched_from = 0

    def choose(self, request: Request) -> Choice:
        usual = {normalise_name(name): usd for name, usd in request.usual_usd.items()}
        proposal, cost_usd = self._proposal(request, usual)
        order = sorted(usual, key=lambda card: -proposal.probabilities.get(card, 0.0))
        if self._fixed in usual:
            order = [self._fixed, *(card for card in order if card != self._fixed)]
        explorer = self._first if self._policy is None else self._later
        drawn = explorer.draw(order, proposal, cost_usd)
        self._log[request.id] = _Logged(
            request.text, drawn.card, request.at, drawn.propensity, usual[drawn.card],
            (proposal.quality or {}).get(drawn.card, np.nan),
        )  # fmt: skip
        name = next(name for name in request.usual_usd if normalise_name(name) == drawn.card)
        return Choice(name, drawn.propensity, explored=drawn.explored)

    def answered(self, billed: Billed) -> None:
        self._log[billed.id].usd = billed.cost_usd

    def rated(self, thumb: Thumb) -> None:
        self._log[thumb.id].score = float(thumb.up)
        self._thumbs += 1
        if self._thumbs % _WATCH_EVERY == 0 and self._moved():
            self._watched_from = max(one.at for one in self._log.values())
            self.retrain()

    def retrain(self) -> None:
        how = LessonSettings()
        before = None
        if self._policy is not None:
            before = load_head(self._policy.manifest, self._policy.path)
        try:
            learned = learned_from(self._table(), how, before=before)
        except ConfigurationError:
            return  # too little is known yet
        concluded = conclude_from_log(
            learned, cost_weight=self._setting.cost_weight, c_ref_usd=self._setting.c_ref_usd
        )
        self.conclusions.append(concluded.use)
        if concluded.use == "as it is":
            return
        folder = Path(self._folder.name) / str(len(self.conclusions))
        write_from_log(folder, learned, how)
        self._policy, self._fixed = HeadPolicy(folder), concluded.card

    def _proposal(
        self, request: Request, usual: dict[str, float]
    ) -> tuple[Proposal, dict[str, float | None]]:
        if self._policy is None:
            cheapest = min(usual, key=usual.__getitem__)
            return Proposal({card: float(card == cheapest) for card in usual}), dict(usual)
        cards = [_card(name, usd) for name, usd in usual.items()]
        asked = RouteRequest(
            messages=[HumanMessage(request.text)], cost_weight=self._weight, prompt_tokens=0
        )
        found = self._policy.weigh(asked, cards, {})
        return proposed(found, ""), dict(found.cost_usd)

    @property
    def _weight(self) -> float:
        """The cost weight in units of the checkpoint: each has a c_ref of its own."""
        assert self._policy is not None
        own = self._policy.manifest.c_ref_usd
        return self._setting.cost_weight * own / self._setting.c_ref_usd

    def _moved(self) -> bool:
        """Whether any card is no longer what the checkpoints took it for."""
        seen: dict[str, list[tuple[float, float]]] = {}
        for one in self._log.values():
            if one.at > self._watched_from and np.isfinite([one.score, one.expected]).all():
                seen.setdefault(one.card, []).append((one.score, one.expected))
        return any(change_since(*np.array(rows).T).alarm for rows in seen.values())

    def _table(self) -> OutcomeGrid:
        """The log as an outcome table: the cards of which a thumb is known."""
        rows = list(self._log.values())
        cards = sorted({one.card for one in rows if np.isfinite(one.score)})
        shape = len(rows), len(cards)
        names = ("score", "cost", "propensity", "observed_at", "output_tokens")
        column = {name: np.full(shape, np.nan) for name in names}
        by = np.full(shape, None, dtype=object)
        for n, one in enumerate(rows):
            if one.card not in cards:
                continue
            at = n, cards.index(one.card)
            column["score"][at], column["cost"][at] = one.score, one.usd
            column["propensity"][at], column["observed_at"][at] = one.propensity, _MINUTE * one.at
            column["output_tokens"][at] = max(_TOKENS * one.usd / max(one.usual_usd, 1e-12), 1.0)
            by[at] = "feedback:liked" if np.isfinite(one.score) else None
        score, cost = column.pop("score"), column.pop("cost")
        tokens = column["output_tokens"]
        return OutcomeGrid(
            keys=tuple(("stream", "log", str(n)) for n in range(len(rows))),
            prompts=tuple(one.text for one in rows),
            families=("stream|log|",) * len(rows),
            models=tuple(cards),
            score=score,
            cost=cost,
            more={**column, "scored_by": by, "input_tokens": np.where(tokens > 0, 0.0, np.nan)},
        )


def _card(name: str, usual_usd: float) -> ModelCard:
    """A card as the pool has it today; nobody calls it."""
    return ModelCard(
        name=name,
        model="recorded",
        base_url="http://127.0.0.1:9/v1",
        price={"input": 0, "output": usual_usd / _TOKENS * 1e6},
    )
