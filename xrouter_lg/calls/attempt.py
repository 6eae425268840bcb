"""Workers: one call to a card, with its attempts, their charges and the card's health."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_UP, Decimal
from types import MappingProxyType
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.bill import AttemptBill, asked_of
from xrouter_lg.calls.breaker import Breaker
from xrouter_lg.calls.failures import (
    RETRYABLE,
    Failure,
    classify,
)
from xrouter_lg.calls.health import Health
from xrouter_lg.calls.ledger import counted
from xrouter_lg.calls.money import hint_tokens, reserve
from xrouter_lg.calls.pauses import backoff_s
from xrouter_lg.calls.replicas import Replicas
from xrouter_lg.calls.sent.thinking import with_fitting_thoughts
from xrouter_lg.calls.tokens import BOUND_PREAMBLE
from xrouter_lg.calls.told.notices import notice_failed_call
from xrouter_lg.calls.told.stream_watch import StreamWatch, stream_watch, with_handler
from xrouter_lg.calls.told.token_sink import TokenSink
from xrouter_lg.calls.told.traced_cost import with_traced_cost
from xrouter_lg.calls.usual_cost import UsualCost
from xrouter_lg.calls.worker.asking import ask_once, keywords_of, own_callbacks, with_hint
from xrouter_lg.calls.worker.hedge import Lane, Listener, Pace
from xrouter_lg.calls.worker.learned import Refusals
from xrouter_lg.calls.worker.loop_models import LoopModels
from xrouter_lg.calls.worker.parameters import LIMITS, NO_TOOLS, Bound, prepare
from xrouter_lg.calls.worker.refusals import refused_parameter
from xrouter_lg.errors import ErrorClass
from xrouter_lg.pool.pool import ModelCard, ModelPool
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

logger = logging.getLogger(__name__)

_NO_SETTINGS: Mapping[str, Any] = MappingProxyType({})
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


class Workers:
    """Calls the cards of a pool, and knows how they are: health, refusals, overruns."""

    def __init__(self) -> None:
        self._models = LoopModels()
        self._breakers: dict[str, Breaker] = {}
        self.learned = Refusals()
        self.overruns: dict[str, Decimal] = {}
        """Cards that have cost more than their worst case, and how many times as much."""
        self.usual = UsualCost()
        self.pace = Pace()
        self.replicas: Replicas | None = None
        """Keeps the cards' state in step with other processes, where there are any."""
        self._lock = threading.Lock()

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

    def breaker(self, card: str) -> Breaker:
        """The health of a card, by name: it outlives a pool's reload."""
        found = self._breakers.get(card)
        if found is None:
            with self._lock:
                found = self._breakers.setdefault(card, Breaker())
        return found

    async def call(
        self,
        card: ModelCard,
        call: PlannedCall,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
        *,
        pool: Iterable[ModelCard] = (),
        kind: Literal["router", "worker"] = "worker",
        charges: list[Charge] | None = None,
        prompt_tokens_max: int = 0,
        tools: Sequence[Any] = (),
        tool_options: Mapping[str, Any] | None = None,
        call_options: Mapping[str, Any] | None = None,
        bound: Bound | None = None,
        settings: Mapping[str, Any] = _NO_SETTINGS,
        lone: bool | None = None,
        deadline: float | None = None,
        sink: TokenSink | None = None,
        lane: Lane | None = None,
    ) -> CallResult:
        """Ask a card, with retries by class of failure. Failures are returned, never raised.

        With an allowance (USD) another attempt is made only while its worst case still fits
        beside what the earlier ones may have cost. ``pool`` is where the price of a model that
        was served in another's place is looked up. ``charges`` gets every attempt as it ends,
        a cancelled one too. ``tools``, ``tool_options`` and ``call_options`` are the app's own,
        and so is all of it as ``bound``: see
        :class:`~xrouter_lg.calls.worker.parameters.Bound`. ``settings`` are
        fields of the chat model that are set otherwise for this call. ``sink`` gets the answer
        chunk by chunk.

        ``lone``: whether nobody else can be asked. Then a pause that the provider asks for is
        waited out, within the card's ``timeout_s``; while somebody can, an open circuit ends the
        call before it begins. None where the caller looks after both. ``deadline``: the moment
        (``time.monotonic``) at which the whole request has to be over. ``lane``: its side of a
        race with another card, which is told of the first token.
        """
        if self.replicas is not None:
            self.replicas.called()
        breaker = self.breaker(f"{kind}:{card.name}")
        charges = [] if charges is None else charges
        prompt_tokens_max += hint_tokens(call.hint)
        bound = bound or Bound(tools, tool_options or {}, call_options or {})
        if own := keywords_of(card, bound.tools):
            bound = replace(bound, call={**own, **bound.call})

        def worst() -> Decimal | None:
            costly = bound.costly()
            priced = reserve(card, prompt_tokens_max, call.max_tokens, costly, self.overruns)
            return call.allowance_usd if priced is None else priced  # what the budget counts then

        as_asked = asked_of(card, bound)
        size = max(0, prompt_tokens_max - BOUND_PREAMBLE)
        bill = AttemptBill(kind, card, call, pool, worst, self.usual, as_asked, size)
        if call.allowance_usd is not None:
            _ = bill.worst  # as it stands when the call begins
        config = with_traced_cost(config, card, pool, as_asked)
        watch = stream_watch(config, own_callbacks(card))
        if watch is not None:
            config = with_handler(config, watch)
        heard = Listener(watch, sink, lane)
        hinted = with_hint(messages, call.hint)
        health = Health(breaker)
        failure = Failure(ErrorClass.UNKNOWN, "not tried")
        omitted: set[str] = set()
        retries, patience_s = card.max_retries, card.timeout_s if lone else RETRY_AFTER_LIMIT_S
        attempt = tries = 0
        while True:
            attempt += 1
            if attempt > 1 and not _affordable(call, charges, bill):
                break
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                failure = Failure(ErrorClass.TIMEOUT, "the request's own timeout_s is over")
                break
            if not health.begin() and lone is False and tries == 0:
                failure = Failure(ErrorClass.CIRCUIT_OPEN, "circuit open after repeated failures")
                break
            started = time.perf_counter()
            prepared = None
            try:
                built = self._models.of(card)  # held until the answer is here, whatever is reloaded
                retries = max(card.max_retries, built.retries)
                model = built.having(settings)
                if card.maker == "anthropic":
                    model = with_fitting_thoughts(model, hinted, card.name, call.max_tokens)
                refused = omitted | self.learned.refused(card.name)
                prepared = prepare(model, call, bound, refused, self.learned.longest(card.name))
                limit = card.timeout_s if left is None else min(card.timeout_s, left)
                message = await ask_once(card, prepared, hinted, config, limit, sink)
            except asyncio.CancelledError:
                health.cancel()
                charges.append(bill.failed(attempt, started, "cancelled", said=_said(watch, sink)))
                raise
            except Exception as error:
                failure = classify(error)
                said = _said(watch, sink)
                charges.append(bill.failed(attempt, started, failure.error_class, failure, said))
                short = left is not None and left < card.timeout_s
                if short and deadline is not None and time.monotonic() >= deadline:
                    health.cancel()  # the request had less time than the card may take
                    failure = replace(failure, detail="the request's own timeout_s is over")
                    break
                if prepared is not None and failure.error_class is ErrorClass.BAD_REQUEST:
                    if self.learned.is_too_long(card.name, error):
                        health.cancel()
                        continue
                    found = refused_parameter(error, prepared.sent - omitted)
                    if found is not None and (found[1] or found[0] not in LIMITS):
                        health.cancel()
                        omitted.add(found[0])
                        if found[1] or found[0] in NO_TOOLS:
                            self.learned.refuses(card.name, found[0], failure.detail)
                        continue
            else:
                flaw = flaw_of(message)
                charge = bill.answered(attempt, started, message, flaw)
                charges.append(self._noting_overrun(card, call, charge, bill))
                if flaw is None or (flaw in CUT and says_something(message)):
                    breaker.success()
                    if sink is not None and (lane is None or not lane.lost):
                        sink.accept(card.name)
                    self.pace.note(
                        card.name,
                        heard.streams,
                        (heard.first_at or time.perf_counter()) - started,
                    )
                    return CallResult(
                        call.id,
                        card.name,
                        message,
                        tuple(charges),
                        truncated=flaw is not None,
                        streamed=_seen(watch, sink),
                    )
                failure = Failure(flaw, _FLAWS[flaw])
            health.failed(failure.error_class)
            if _seen(watch, sink):
                break  # a second attempt's text would be glued to the first one's
            tries += 1
            pause = _pause(failure, tries, patience_s)
            if pause is None or tries > retries or (breaker.open and not lone):
                break
            if deadline is not None and time.monotonic() + pause >= deadline:
                break
            patience_s -= pause if lone else 0.0
            await asyncio.sleep(pause)
        notice_failed_call(card.name, failure)
        return CallResult(
            call.id,
            card.name,
            None,
            tuple(charges),
            error=failure.error_class,
            detail=failure.detail,
            streamed=_seen(watch, sink),
            retry_after_s=failure.retry_after_s,
        )

    def told(self) -> dict[str, tuple[float | None, Mapping[str, Any]]]:
        """What other replicas may want to know: see :class:`~xrouter_lg.calls.replicas.Shares`."""
        with self._lock:
            breakers, overruns = dict(self._breakers), dict(self.overruns)
        refusals = self.learned.told()
        found: dict[str, tuple[float | None, Mapping[str, Any]]] = {}
        for place in {*breakers, *(f"worker:{name}" for name in (*refusals, *overruns))}:
            kind, _, name = place.partition(":")
            learned = dict(refusals.get(name, {})) if kind == "worker" else {}
            if kind == "worker" and name in overruns:
                learned["overrun"] = str(overruns[name])
            found[place] = (self.breaker(place).opened_s_ago, learned)
        return found

    def heard(
        self, card: str, opened_s_ago: float | None, changed: bool, learned: Mapping[str, Any]
    ) -> None:
        """Take over what another replica says of a card."""
        name = card.partition(":")[2]
        if changed:
            self.breaker(card).follow(opened_s_ago)
        with self._lock:
            if "overrun" in learned:
                known = self.overruns.get(name, Decimal(1))
                self.overruns[name] = max(known, Decimal(learned["overrun"]))
        self.learned.heard(name, learned)

    def _noting_overrun(
        self, card: ModelCard, call: PlannedCall, charge: Charge, bill: AttemptBill
    ) -> Charge:
        """The charge with what it has cost above its bound, which the next call reserves by."""
        if call.allowance_usd is None:
            return charge
        worst = bill.worst
        if not worst or (charge.cost_usd or 0) <= worst:
            return charge
        assert charge.cost_usd is not None
        over = charge.cost_usd - worst
        with self._lock:
            factor = self.overruns.get(card.name, Decimal(1)) * charge.cost_usd / worst
            # Rounded up: by this factor the same call would have fitted.
            self.overruns[card.name] = factor.quantize(Decimal("0.001"), rounding=ROUND_UP)
        logger.warning(
            "card %r has cost $%s more than the $%s that its limits allow; its calls are reserved "
            "at %s times their worst case from now on",
            card.name,
            format(over, "f"),
            format(worst, "f"),
            self.overruns[card.name],
        )
        return replace(charge, overrun_usd=over)


def _seen(watch: StreamWatch | None, sink: TokenSink | None) -> bool:
    """Whether somebody has seen a part of the answer."""
    return (watch is not None and watch.seen) or (sink is not None and sink.shown)


def _said(watch: StreamWatch | None, sink: TokenSink | None) -> int | None:
    """Characters that have come of an answer that streams, else None."""
    if sink is not None:
        return sink.said
    return None if watch is None else watch.said


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
