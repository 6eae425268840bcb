"""Workers: one call to a card, with its attempts, their charges and the card's health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from enum import Enum, auto
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.bill import AttemptBill, asked_of
from xrouter_lg.calls.failures import RETRYABLE, Failure, classify
from xrouter_lg.calls.health import Health
from xrouter_lg.calls.ledger import counted
from xrouter_lg.calls.money import AsAsked, hint_tokens, reserved_usd
from xrouter_lg.calls.pauses import backoff_s
from xrouter_lg.calls.replicas import Replicas
from xrouter_lg.calls.sent.thinking import with_fitting_thoughts
from xrouter_lg.calls.tokens import BOUND_PREAMBLE
from xrouter_lg.calls.told.notices import notice_failed_call
from xrouter_lg.calls.told.stream_watch import stream_watch, with_handler
from xrouter_lg.calls.told.token_sink import TokenSink
from xrouter_lg.calls.told.traced_cost import with_traced_cost
from xrouter_lg.calls.worker.asking import ask_once, keywords_of, own_callbacks, with_hint
from xrouter_lg.calls.worker.card_states import CardStates
from xrouter_lg.calls.worker.hedge import Lane, Listener
from xrouter_lg.calls.worker.loop_models import LoopModel, LoopModels
from xrouter_lg.calls.worker.parameters import (
    LIMITS,
    NO_TOOLS,
    NOTHING_BOUND,
    Bound,
    Prepared,
    prepare,
)
from xrouter_lg.calls.worker.refusals import refused_parameter
from xrouter_lg.errors import ErrorClass
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.said import CUT, flaw_of, says_something
from xrouter_lg.types import Charge, PlannedCall

RETRY_AFTER_LIMIT_S = 5.0
"""A provider that asks for a longer pause than this is left for the next candidate."""

_FLAWS = {
    ErrorClass.CONTENT_FILTER: "the provider's content filter stopped it",
    ErrorClass.TRUNCATED: "the answer was cut at its length limit",
    ErrorClass.EMPTY: "the answer has neither text nor tool calls",
    ErrorClass.STREAM_CUT: "the stream ended without a finish reason",
    ErrorClass.SERVER: "the provider broke off",
    ErrorClass.MALFORMED: "its tool calls can't be read",
}

_REQUEST_OVER = "the request's own timeout_s is over"
_BACKOFF_S = 0.25
_BACKOFF_LIMIT_S = 4.0


@dataclass(frozen=True, slots=True)
class CallResult:
    """What a call gave: a message, or the class and wording of its last failure; and what was
    charged on the way. ``streamed`` says that tokens of the call have reached the caller."""

    call_id: str
    card: str
    message: AIMessage | None
    charges: tuple[Charge, ...]
    error: ErrorClass | None = None
    detail: str = ""
    truncated: bool = False
    streamed: bool = False
    retry_after_s: float | None = None
    """The pause that the provider asked for when it last refused, in seconds."""
    short_of: str | None = None
    """Whose limit has refused the call; None where it was made."""
    cause: BaseException | None = field(default=None, repr=False, compare=False)
    """The exception behind ``error``, in the process that made the call."""


@dataclass(frozen=True, slots=True)
class CallTerms:
    """What a call is made with, beside what is asked."""

    kind: Literal["router", "worker"] = "worker"
    pool: Iterable[ModelCard] = ()
    """Where the price of a model that was served in another's place is looked up."""
    prompt_tokens_max: int = 0
    bound: Bound = NOTHING_BOUND
    """The app's own tools and options."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the chat model that are set otherwise for this call."""
    lone: bool | None = None
    """Whether nobody else can be asked. Then a pause that the provider asks for is waited out,
    within the card's ``timeout_s``; while somebody can, an open circuit ends the call before it
    begins. None where the caller looks after both."""
    deadline: float | None = None
    """The moment (``time.monotonic``) at which the whole request has to be over."""


PLAIN = CallTerms()


class Workers:
    """Calls the cards of a pool, and knows how they are."""

    def __init__(self) -> None:
        self._models = LoopModels()
        self.cards = CardStates()
        self.replicas: Replicas | None = None
        """Keeps the cards' state in step with other processes, where there are any."""

    def prepare(self, pool: ModelPool) -> None:
        """Build every card's model now, so that a bad card is found before the first request.

        Raises:
            PoolError, MissingKeyError: as :func:`build_chat_model`.
        """
        for card in pool:
            self._models.prepare(card)

    def model(self, card: ModelCard) -> BaseChatModel:
        """The card's chat model for the running event loop."""
        return self._models.of(card).model

    def prepared(self, card: ModelCard) -> BaseChatModel:
        """The card's chat model as it was built, of which every event loop gets a copy."""
        return self._models.prepare(card)

    async def call(
        self,
        card: ModelCard,
        call: PlannedCall,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
        terms: CallTerms = PLAIN,
        *,
        charges: list[Charge] | None = None,
        sink: TokenSink | None = None,
        lane: Lane | None = None,
    ) -> CallResult:
        """Ask a card, with retries by class of failure. Failures are returned, never raised.

        With an allowance (USD) another attempt is made only while its worst case still fits
        beside what the earlier ones may have cost. ``charges`` gets every attempt as it ends,
        a cancelled one too. ``sink`` gets the answer chunk by chunk. ``lane``: its side of a
        race with another card, which is told of the first token.
        """
        if self.replicas is not None:
            self.replicas.called()
        if own := keywords_of(card, terms.bound.tools):
            terms = replace(terms, bound=replace(terms.bound, call={**own, **terms.bound.call}))
        as_asked = asked_of(card, terms.bound)
        config = with_traced_cost(config, card, terms.pool, as_asked)
        watch = stream_watch(config, own_callbacks(card))
        if watch is not None:
            config = with_handler(config, watch)
        attempts = _Attempts(
            self.cards,
            terms,
            _bill(card, call, terms, as_asked, self.cards),
            [] if charges is None else charges,
            Listener(watch, sink, lane),
        )
        models, hinted = self._models, with_hint(messages, call.hint)
        while attempts.begin():
            prepared = None
            try:
                built = models.of(card)  # held until the answer is here, whatever is reloaded
                prepared = attempts.prepare(built, hinted)
                message = await ask_once(card, prepared, hinted, config, attempts.limit_s, sink)
            except asyncio.CancelledError:
                attempts.cancelled()
                raise
            except Exception as error:
                step = attempts.failed(error, prepared)
            else:
                if attempts.answered(message):
                    return attempts.result(message)
                step = _Step.RETRY
            if step is _Step.END or (step is _Step.RETRY and not await attempts.pause()):
                break
        notice_failed_call(card.name, attempts.failure)
        return attempts.result()


class _Step(Enum):
    """What follows an attempt without an answer."""

    AGAIN = auto()
    """At once, without what the model has refused."""
    RETRY = auto()
    END = auto()


def _bill(
    card: ModelCard, call: PlannedCall, terms: CallTerms, as_asked: AsAsked, cards: CardStates
) -> AttemptBill:
    most = terms.prompt_tokens_max + hint_tokens(call.hint)

    def worst() -> Decimal | None:
        costly = terms.bound.costly()
        priced = reserved_usd(card, most, call.max_tokens, costly, cards.overruns)
        return call.allowance_usd if priced is None else priced  # what the budget counts then

    size = max(0, most - BOUND_PREAMBLE)
    bill = AttemptBill(terms.kind, card, call, terms.pool, worst, cards.usual, as_asked, size)
    if call.allowance_usd is not None:
        _ = bill.worst  # as it stands when the call begins
    return bill


class _Attempts:
    """The attempts of one call: when another begins, with what, and what each one's end means for
    its bill, its card and the next."""

    def __init__(
        self,
        cards: CardStates,
        terms: CallTerms,
        bill: AttemptBill,
        charges: list[Charge],
        heard: Listener,
    ) -> None:
        self._cards, self._terms, self._bill = cards, terms, bill
        self._card, self._call, self._charges, self._heard = bill.card, bill.call, charges, heard
        self._breaker = cards.breaker(f"{terms.kind}:{bill.card.name}")
        self._health = Health(self._breaker)
        self._omitted: set[str] = set()
        self._retries = bill.card.max_retries
        self._patience_s = bill.card.timeout_s if terms.lone else RETRY_AFTER_LIMIT_S
        self._number = self._tries = 0
        self._started = 0.0
        self._truncated = False
        self.limit_s = bill.card.timeout_s
        """What the attempt may take."""
        self.failure = Failure(ErrorClass.UNKNOWN, "not tried")
        """The last one."""

    def begin(self) -> bool:
        """Whether another attempt may be made; it has begun then."""
        self._number += 1
        if self._number > 1 and not _affordable(self._call, self._charges, self._bill):
            return False
        self.limit_s = self._card.timeout_s
        if self._terms.deadline is not None:
            left = self._terms.deadline - time.monotonic()
            if left <= 0:
                self.failure = Failure(ErrorClass.TIMEOUT, _REQUEST_OVER)
                return False
            self.limit_s = min(self.limit_s, left)
        if not self._health.begin() and self._terms.lone is False and self._tries == 0:
            self.failure = Failure(ErrorClass.CIRCUIT_OPEN, "circuit open after repeated failures")
            return False
        self._started = time.perf_counter()
        return True

    def prepare(self, built: LoopModel, messages: Sequence[BaseMessage]) -> Prepared:
        """What is sent this time.

        Raises:
            RequestError: as :func:`~xrouter_lg.calls.worker.parameters.prepare`.
        """
        name, call = self._card.name, self._call
        self._retries = max(self._card.max_retries, built.retries)
        model = built.having(self._terms.settings)
        if self._card.maker == "anthropic":
            model = with_fitting_thoughts(model, messages, name, call.max_tokens)
        refusals = self._cards.refusals
        refused = self._omitted | refusals.refused(name)
        return prepare(model, call, self._terms.bound, refused, refusals.longest(name))

    def cancelled(self) -> None:
        self._health.cancel()
        self._charges.append(
            self._bill.failed(self._number, self._started, "cancelled", said=self._heard.said)
        )

    def failed(self, error: Exception, prepared: Prepared | None) -> _Step:
        """An attempt has raised. ``prepared``: None where it was not sent."""
        failure = self.failure = classify(error)
        kind, said = failure.error_class, self._heard.said
        self._charges.append(self._bill.failed(self._number, self._started, kind, failure, said))
        deadline = self._terms.deadline
        short = self.limit_s < self._card.timeout_s
        if short and deadline is not None and time.monotonic() >= deadline:
            self._health.cancel()  # the request had less time than the card may take
            self.failure = replace(failure, detail=_REQUEST_OVER)
            return _Step.END
        sent = prepared if kind is ErrorClass.BAD_REQUEST else None
        if sent is not None and self._mended(error, sent):
            self._health.cancel()
            return _Step.AGAIN
        self._health.failed(kind)
        return _Step.RETRY

    def _mended(self, error: Exception, prepared: Prepared) -> bool:
        """Whether the model has said what it does not take, so that it can be left out."""
        name, refusals = self._card.name, self._cards.refusals
        if refusals.is_too_long(name, error):
            return True
        found = refused_parameter(error, prepared.sent - self._omitted)
        if found is None or (found[0] in LIMITS and not found[1]):
            return False
        parameter, lasting = found
        self._omitted.add(parameter)
        if lasting or parameter in NO_TOOLS:
            refusals.refuses(name, parameter, self.failure.detail)
        return True

    def answered(self, message: AIMessage) -> bool:
        """Whether the message is an answer."""
        flaw = flaw_of(message)
        charge = self._bill.answered(self._number, self._started, message, flaw)
        self._charges.append(self._with_overrun(charge))
        if flaw is not None and not (flaw in CUT and says_something(message)):
            self.failure = Failure(flaw, _FLAWS[flaw])
            self._health.failed(flaw)
            return False
        self._truncated = flaw is not None
        self._breaker.success()
        self._heard.accept(self._card.name)
        first_at = self._heard.first_at or time.perf_counter()
        self._cards.pace.note(self._card.name, self._heard.streams, first_at - self._started)
        return True

    def _with_overrun(self, charge: Charge) -> Charge:
        """The charge with what it has cost above its bound."""
        if self._call.allowance_usd is None:
            return charge
        worst, cost = self._bill.worst, charge.cost_usd
        if not worst or cost is None or cost <= worst:
            return charge
        return replace(charge, overrun_usd=self._cards.overrun(self._card.name, cost, worst))

    async def pause(self) -> bool:
        """Wait for the next attempt; False where none follows."""
        if self._heard.shown:
            return False  # a second attempt's text would be glued to the first one's
        self._tries += 1
        lone, deadline = self._terms.lone, self._terms.deadline
        seconds = _pause(self.failure, self._tries, self._patience_s)
        if seconds is None or self._tries > self._retries or (self._breaker.open and not lone):
            return False
        if deadline is not None and time.monotonic() + seconds >= deadline:
            return False
        self._patience_s -= seconds if lone else 0.0
        await asyncio.sleep(seconds)
        return True

    def result(self, message: AIMessage | None = None) -> CallResult:
        """With the answer, or with the last failure."""
        lost = self.failure if message is None else None
        return CallResult(
            self._call.id,
            self._card.name,
            message,
            tuple(self._charges),
            error=None if lost is None else lost.error_class,
            detail="" if lost is None else lost.detail,
            truncated=self._truncated,
            streamed=self._heard.shown,
            retry_after_s=None if lost is None else lost.retry_after_s,
            cause=None if lost is None else lost.cause,
        )


def _affordable(call: PlannedCall, charges: Sequence[Charge], bill: AttemptBill) -> bool:
    if call.allowance_usd is None:
        return True
    spent = sum((counted(charge) for charge in charges), Decimal(0))
    return bill.worst is not None and spent + bill.worst <= call.allowance_usd


def _pause(failure: Failure, attempt: int, patience_s: float) -> float | None:
    """Seconds before the next attempt, None when there should be none. ``patience_s`` is the
    longest pause that is waited out when the provider asks for it."""
    if failure.error_class not in RETRYABLE:
        return None
    if failure.retry_after_s is not None:
        if failure.retry_after_s > patience_s:
            return None
        return failure.retry_after_s
    return backoff_s(attempt, first_s=_BACKOFF_S, longest_s=_BACKOFF_LIMIT_S)
