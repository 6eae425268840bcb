"""What a checkpoint makes of one request: by the code that serves it, without a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

from langchain_core.messages import HumanMessage

from xrouter_lg.calls.tokens import prompt_size
from xrouter_lg.checkpoints.aliases import resolve_checkpoint
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.checkpoints.parts import HeadStats
from xrouter_lg.policies.checkpoints import load_policy
from xrouter_lg.policies.resolve import resolve_policy
from xrouter_lg.policies.thompson import best_chances
from xrouter_lg.policies.trained import Estimate, EstimatingPolicy, reason_of
from xrouter_lg.policies.utility import Doubt, Utilities, certainty
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing.constraints import apply, texts
from xrouter_lg.types import RouteRequest

_MOST_WORDS = 150
"""Different words of a request that are tried one by one."""
_TELLING = 5
_OTHER_KINDS = 2
_NO_SERVER = "http://127.0.0.1"


class _Estimating(Protocol):
    """A policy of a checkpoint that expects a score and a cost of every card."""

    manifest: Manifest

    def estimate(
        self, requests: Sequence[RouteRequest], candidates: Sequence[ModelCard]
    ) -> list[Estimate]: ...


@dataclass(frozen=True, kw_only=True)
class ReadKind:
    """Which kind of request it is taken for, and by what."""

    name: str
    probability: float
    others: dict[str, float]
    """The next likely kinds, by probability."""
    telling: tuple[str, ...]
    """Words that by themselves make this kind likelier than usual, the most telling first."""
    known: float
    """Share of the request's words and neighbouring pairs that training has seen, 0 to 1."""
    unknown: tuple[str, ...]
    """Words that it has not."""
    trusted: float
    """How far the reading counts, 0 to 1; the rest is each card's overall mean."""


@dataclass(frozen=True, kw_only=True)
class CardEstimate:
    """What is expected of one card."""

    name: str
    expected_score: float | None
    """None for a checkpoint that does not know what it does not know."""
    counted_on: float
    """What the decision counts on: a little less than expected where little is known."""
    expected_usd: float
    utility: float
    chance_of_best: float | None
    """Probability that it has the highest utility, given what is not known."""
    trained: bool
    """Whether the checkpoint has ever seen it."""


@dataclass(frozen=True, kw_only=True)
class Takeover:
    """Another choice, and the cost weight from which it is made."""

    card: str
    cost_weight: float


@dataclass(frozen=True, kw_only=True)
class ReadRequest:
    """Everything that ``xrouter explain`` says of a prompt."""

    checkpoint: str
    version: str
    cost_weight: float
    prompt_tokens: int
    kind: ReadKind | None
    """None for a checkpoint without a family head."""
    cards: tuple[CardEstimate, ...]
    """The highest utility first."""
    taken: str
    reason: str
    removed: dict[str, str]
    """Cards of the pool that can't take the request, and why."""
    cheaper: Takeover | None
    """What is taken instead from this cost weight on."""
    dearer: Takeover | None
    """What is taken instead below this cost weight."""


class RequestReader:
    """Reads requests as a checkpoint does; nothing is called.

    ``pool`` gives today's prices and limits; without one the cards are those that the checkpoint
    was trained on, at the prices of then.

    Raises:
        CheckpointError: no checkpoint, a damaged one, one for other cards, or one of a kind that
            expects nothing of single cards.
        MissingExtraError: what the checkpoint needs is not installed.
    """

    def __init__(self, checkpoint: str | Path, pool: ModelPool | None = None) -> None:
        self.folder = resolve_checkpoint(checkpoint)
        policy = load_policy(self.folder) if pool is None else resolve_policy(self.folder, pool)
        if not isinstance(policy, EstimatingPolicy):
            kind = getattr(getattr(policy, "manifest", None), "kind", "?")
            raise CheckpointError(
                f"{str(checkpoint)!r} is of kind {kind!r}, which plans whole requests and expects "
                "nothing of a card by itself; explain one of kind 'head' (xrouter train OUTCOMES "
                "--output FOLDER)"
            )
        self.manifest = policy.manifest
        self._policy = cast(_Estimating, policy)
        self._given = str(checkpoint)
        self.pool = pool or ModelPool([_remembered(card) for card in _priced(self.manifest)])

    def read(
        self, text: str, cost_weight: float, among: Sequence[str] | None = None
    ) -> ReadRequest:
        """One request. ``among`` are the cards that it could go to; left out, all of the pool.

        Raises:
            NoCandidateError: no card of the pool can take it.
        """
        messages = [HumanMessage(text)]
        size = prompt_size(messages)
        request = RouteRequest(
            messages=messages,
            cost_weight=cost_weight,
            allow=None if among is None else frozenset(among),
            prompt_tokens=size.likely,
            prompt_tokens_max=size.at_most,
            needs=size.needs,
        )
        left = apply(self.pool, request, lambda _card: False)
        found = self._at(request, left.cards, cost_weight)
        taken = _best(found)
        lines = self._lines(request, left.cards)
        return ReadRequest(
            checkpoint=self._given,
            version=self.manifest.version,
            cost_weight=cost_weight,
            prompt_tokens=size.likely,
            kind=_kind(found.doubt, self.manifest.family_head),
            cards=self._cards(found),
            taken=taken,
            reason=reason_of(found, cost_weight),
            removed=texts(left.removed) if among is None else {},
            cheaper=_takeover(lines, taken, cost_weight, up=True),
            dearer=_takeover(lines, taken, cost_weight, up=False),
        )

    def _at(self, request: RouteRequest, cards: Sequence[ModelCard], weight: float) -> Utilities:
        asked = replace(request, cost_weight=weight)
        return self._policy.estimate([asked], cards)[0].expected

    def _lines(
        self, request: RouteRequest, cards: Sequence[ModelCard]
    ) -> dict[str, tuple[float, float]]:
        """Each card's utility at cost weight 0, and what it loses per unit: neither score nor cost
        depends on the weight, so two readings tell every other."""
        free, dear = (self._at(request, cards, weight).utility for weight in (0.0, 1.0))
        return {name: (free[name], free[name] - dear[name]) for name in free}

    def _cards(self, found: Utilities) -> tuple[CardEstimate, ...]:
        chances, expected = best_chances(found), _expected(found)
        trained = {card.name for card in self.manifest.every_card}
        cards = [
            CardEstimate(
                name=name,
                expected_score=None if expected is None else expected[name],
                counted_on=found.quality[name],
                expected_usd=found.cost_usd[name],
                utility=utility,
                chance_of_best=None if chances is None else chances[name],
                trained=name in trained,
            )
            for name, utility in found.utility.items()
        ]
        return tuple(sorted(cards, key=lambda card: (-card.utility, card.expected_usd)))


def _priced(manifest: Manifest) -> list[tuple[str, dict[str, str] | None]]:
    cards = manifest.every_card
    return [(card.name, None if card.price is None else dict(card.price)) for card in cards]


def _remembered(card: tuple[str, dict[str, str] | None]) -> ModelCard:
    """A card that is only read about."""
    name, price = card
    return ModelCard(name=name, model=name, base_url=_NO_SERVER, price=price)


def _best(found: Utilities) -> str:
    """The card that is called: the highest utility, of equals the cheaper."""
    return min(found.utility, key=lambda name: (-found.utility[name], found.cost_usd[name]))


def _expected(found: Utilities) -> dict[str, float] | None:
    """Expected scores, without what a decision is careful about."""
    doubt = found.doubt
    known = None if doubt is None else doubt.head.expected(doubt.reading)
    if doubt is None or known is None:
        return None
    mean = dict(zip(doubt.head.cards, known[0].tolist(), strict=True))
    read = doubt.reading.quality
    return {
        name: counted + doubt.weight.get(name, 0.0) * (mean.get(name, 0.0) - read.get(name, 0.0))
        for name, counted in found.quality.items()
    }


def _takeover(
    lines: dict[str, tuple[float, float]], taken: str, weight: float, *, up: bool
) -> Takeover | None:
    """Where the first of the other cards' lines crosses that of the taken one."""
    top, loss = lines[taken]
    crossings = []
    for name, (free, lost) in lines.items():
        if (lost < loss) if up else (lost > loss):
            at = (top - free) / (loss - lost)
            if (at >= weight) if up else (0.0 < at <= weight):
                crossings.append(Takeover(card=name, cost_weight=at))
    if not crossings:
        return None
    return (min if up else max)(crossings, key=lambda one: one.cost_weight)


def _kind(doubt: Doubt | None, stats: HeadStats | None) -> ReadKind | None:
    if doubt is None or stats is None:
        return None
    head, reading = doubt.head, doubt.reading
    blocks = len(head.blocks)
    shares = reading.shares[head.blocks[0]]
    ranked = sorted(zip(head.partition, shares, strict=True), key=lambda pair: -pair[1])
    at = head.partition.index(reading.family)
    words = _words(doubt.text)
    unknown = tuple(word for word in words if head.point(word)[1] == 0.0)
    usual = float(head.arrays["share_F"][at]) * blocks
    alone = {
        word: head.probabilities(_nothing_but(word, doubt.text))[0][at] * blocks
        for word in words
        if word not in unknown
    }
    telling = sorted((w for w in alone if alone[w] > usual), key=lambda w: -alone[w])
    return ReadKind(
        name=reading.family,
        probability=shares[at] * blocks,
        others={name: share * blocks for name, share in ranked[1 : 1 + _OTHER_KINDS]},
        telling=tuple(telling[:_TELLING]),
        known=reading.known,
        unknown=unknown,
        trusted=certainty(stats, reading),
    )


def _nothing_but(word: str, text: str) -> str:
    """A text as long as this one that has this word alone: its length is evidence of its own."""
    return " ".join([word] * max(1, round(len(text) / (len(word) + 1))))


def _words(text: str) -> list[str]:
    """The different words of a text, in their order, as many as are tried."""
    return [word for word in dict.fromkeys(map(_bare, text.split())) if word][:_MOST_WORDS]


def _bare(part: str) -> str:
    return part.strip(".,;:!?\"'`()[]{}<>").lower()
