"""Whom to ask, whether to ask a second, whether to accept, and whom to escalate to.

The policy asks one card or several at once, looks at who agrees with whom and how long the answers
are, and accepts the answer most probably right or calls another card, whichever is worth more
(:mod:`xrouter_lg.policies.cascade.planner`). Agreement is a signal that no single decision has.
What is known of the cards was learned from recorded answers
(:mod:`xrouter_lg.fitting.cascade_checkpoint`); a request's kind is read by a family head. The
policy generates nothing: it costs no tokens.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from xrouter_lg.checkpoints.cascade_model import AnswerModel
from xrouter_lg.checkpoints.folder import verify
from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.extras import need
from xrouter_lg.final_answer import final_answer
from xrouter_lg.policies.cascade.planner import Planner, Values
from xrouter_lg.policies.trained import TrainedPolicy
from xrouter_lg.policies.utility import TEMPERATURE, softmax
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pricing import Price
from xrouter_lg.said import question_of, text_of
from xrouter_lg.types import Action, Answer, Proposal, RouteRequest, TokenUsage

_log = logging.getLogger(__name__)

ROUNDS = 2
"""Rounds of further calls that are planned for at most; a router with more turns does not use
them."""
Key = TypeVar("Key")
Kept = TypeVar("Kept")

_STEP = 0.05
"""Kind shares are rounded to this, so that requests of a kind share one plan."""
_KEPT = 512
"""Plans kept."""
_PLANNERS = 8
_PRICED = TokenUsage(input_tokens=300, output_tokens=300)
"""Tokens by which two prices of a card are compared."""


class Plans:
    """Plans of a model by cards, shares, prices, cost weight and turns, each made once."""

    def __init__(self, model: AnswerModel) -> None:
        self.model = model
        self._planners: OrderedDict[tuple[Any, ...], Planner] = OrderedDict()
        self._values: OrderedDict[tuple[Any, ...], Values] = OrderedDict()

    def planner(self, cards: Sequence[int], turns: int) -> Planner:
        """The planner among these cards (numbers of the model) for so many decisions."""
        most, chosen = self.model.first_most + rounds_of(turns), tuple(sorted(cards))
        return _kept(
            self._planners, (chosen, most), _PLANNERS, lambda: Planner(self.model, chosen, most)
        )

    def values(
        self,
        cards: Sequence[int],
        shares: Sequence[float],
        cost_weight: float,
        *,
        turns: int,
        factors: Mapping[int, float] | None = None,
    ) -> Values:
        """What every choice is worth where ``turns`` decisions may be taken. ``factors`` are
        today's prices over those of the record."""
        np = need("numpy", "a cascade checkpoint")
        planner, prices = self.planner(cards, turns), tuple(sorted((factors or {}).items()))
        most = 1 if turns == 1 else self.model.first_most
        key = (planner.cards, tuple(shares), cost_weight, min(turns, ROUNDS + 2), prices)

        def make() -> Values:
            usd = np.array(self.model.usd_F_M, dtype=np.float64)
            for card, factor in prices:
                usd[:, card] *= factor
            return planner.values(shares, usd, cost_weight, rounds_of(turns), most)

        return _kept(self._values, key, _KEPT, make)

    def shares(self, text: str) -> tuple[float, ...]:
        """Rounded P(kind) of a request's text."""
        raw, _ = self.model.head.probabilities(text)
        rounded = [round(share / _STEP) for share in raw]
        whole = sum(rounded)
        return tuple(share / whole for share in rounded) if whole else tuple(raw)


class CascadePolicy(TrainedPolicy):
    """Plans of a set of calls at once, then single calls, as learned from recorded answers.

    ``path`` is the folder of a checkpoint of kind ``cascade``. ``max_turns=4`` lets it call three
    times, ``max_turns=3`` twice and ``max_turns=2`` once; with ``max_turns=1`` it is a router by
    kind of task, and says so once if it was measured with more. Cards that the checkpoint does not
    know are not used.

    Raises:
        CheckpointError: no such checkpoint, or a damaged one.
        MissingExtraError: numpy or safetensors is not installed.
    """

    orchestrates = True

    def __init__(self, path: str | Path) -> None:
        folder = Path(path)
        super().__init__(folder, verify(folder, kind="cascade"))
        self.plans = Plans(AnswerModel.of(self.manifest, folder))
        self._told = False

    def _tell(self, turns: int) -> None:
        """Once: that a node grants fewer turns than this checkpoint was measured with."""
        measured = 1 if self.manifest.cascade is None else self.manifest.cascade.turns
        if turns < measured and not self._told:
            self._told = True
            _log.warning(
                "cascade %s was measured with max_turns=%d and is served with max_turns=%d: %s. "
                "Give the node max_turns=%d to serve what was judged",
                self.version,
                measured,
                turns,
                "it routes by kind of task" if turns == 1 else "it plans fewer calls",
                measured,
            )

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        """The best first calls; on later turns acceptance, or one more call."""
        self._tell(request.max_turns)
        plans, names = self.plans, self.plans.model.cards
        number = {name: n for n, name in enumerate(names)}
        there = [number[card.name] for card in candidates if card.name in number]
        known = [answer for answer in request.answers if answer.card in number]
        if not there and not known:
            raise PolicyConfigError(
                f"cascade {self.version} knows none of "
                f"{', '.join(card.name for card in candidates)}; it knows {', '.join(names)}"
            )
        shares = plans.shares(text_of(question_of(request.messages)))
        cards = sorted({*there, *(number[answer.card] for answer in known)})
        values = plans.values(
            cards,
            shares,
            self.cost_weight(request),
            turns=request.max_turns,
            factors=self._factors(candidates, number),
        )
        single = {names[card]: utility for card, utility in values.single.items()}
        lowest = min(single.values()) - 1.0
        actions, reason = self._decide(request, known, set(there), shares, values)
        return Proposal(
            softmax({c.name: single.get(c.name, lowest) for c in candidates}, TEMPERATURE),
            actions=actions,
            reason=reason,
        )

    def _decide(
        self,
        request: RouteRequest,
        known: Sequence[Answer],
        there: set[int],
        shares: Sequence[float],
        values: Values,
    ) -> tuple[tuple[Action, ...], str]:
        names = self.plans.model.cards
        number = {name: n for n, name in enumerate(names)}
        if not request.answers:
            asked = tuple(Action("call", card=names[card]) for card in values.first)
            wanted_first = " + ".join(names[card] for card in values.first)
            return asked, f"plan: ask {wanted_first} first, worth {values.utility:.3f}"
        if not known:
            last = request.answers[-1]
            return (Action("select", call_id=last.call_id),), f"only {last.card} answered"
        # The newest answer of a card counts; more than are planned for are not looked at.
        latest = {number[answer.card]: answer for answer in known}
        planner = self.plans.planner(sorted({*there, *latest}), request.max_turns)
        cards = list(latest)[: planner.most]
        state, seats = planner.state(cards, groups_of([latest[card] for card in cards]))
        first = max(1, len(cards) - max(0, request.turn - 2))
        lengths = [len(text_of(latest[card].message)) for card in cards]
        at = self.plans.model.length_bin(shares, cards[:first], lengths[:first])
        wanted = planner.next_card(values, state, at, request.max_turns - request.turn)
        if wanted is not None and wanted in there:
            return (
                Action("call", card=names[wanted]),
            ), f"plan: not sure enough, ask {names[wanted]}"
        group = int(values.group_T_B[state, at])
        chosen = max(
            (card for card, seat in zip(cards, seats, strict=True) if seat == group),
            key=lambda card: values.single[card],
        )
        alike = seats.count(group)
        return (
            (Action("select", call_id=latest[chosen].call_id),),
            f"plan: accept {names[chosen]}, {alike} of {len(cards)} alike",
        )

    def _factors(
        self, candidates: Sequence[ModelCard], number: Mapping[str, int]
    ) -> dict[int, float]:
        factors = {}
        for card in candidates:
            now, then = card.effective_price, self.plans.model.prices.get(card.name)
            if now is None or then is None or card.name not in number:
                continue
            before = _usd(Price.parse(dict(then), where=f"the checkpoint's card {card.name!r}"))
            if before > 0:
                factors[number[card.name]] = float(_usd(now) / before)
        return factors


def groups_of(answers: Sequence[Answer]) -> list[int]:
    """The same number for answers whose final answers are the same; a cut one, and one that has no
    final answer, agrees with none."""
    finals = [None if a.truncated else final_answer(text_of(a.message)) for a in answers]
    return group_numbers(finals)


def group_numbers(finals: Sequence[str | None]) -> list[int]:
    """A number each: equal for equal final answers, its own for none."""
    seen: dict[str, int] = {}
    return [
        -1 - place if final is None else seen.setdefault(final, len(seen))
        for place, final in enumerate(finals)
    ]


def rounds_of(turns: int) -> int:
    """Rounds of further calls that so many decisions allow: the last one can only accept."""
    return max(0, min(turns - 2, ROUNDS))


def _usd(price: Price) -> Decimal:
    return price.input * _PRICED.input_tokens + price.output * _PRICED.output_tokens


def _kept(cache: OrderedDict[Key, Kept], key: Key, most: int, make: Callable[[], Kept]) -> Kept:
    """The value of a key, made if it is not there; the oldest goes when there are too many."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > most:
            cache.popitem(last=False)
    else:
        cache.move_to_end(key)
    return cache[key]
