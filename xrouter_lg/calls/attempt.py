"""Workers: one call to a card, with its attempts, their charges and the card's health."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_UP, Decimal
from functools import cached_property
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.breaker import Breaker
from xrouter_lg.calls.failures import (
    RETRYABLE,
    Failure,
    backoff_s,
    classify,
    refused_parameter,
)
from xrouter_lg.calls.health import Health
from xrouter_lg.calls.ledger import counted
from xrouter_lg.calls.money import cost_of, hint_tokens, reserve
from xrouter_lg.calls.sent.encodable import encodable
from xrouter_lg.calls.sent.foreign import without_foreign_thoughts
from xrouter_lg.calls.sent.thinking import with_fitting_thoughts
from xrouter_lg.calls.told.notices import notice_failed_call
from xrouter_lg.calls.told.stream_watch import stream_watch, with_handler
from xrouter_lg.calls.told.traced_cost import with_traced_cost
from xrouter_lg.calls.worker.loop_models import LoopModels
from xrouter_lg.calls.worker.parameters import LIMITS, Bound, Prepared, prepare
from xrouter_lg.errors import ErrorClass
from xrouter_lg.pool.pool import SEARCH_OPTION, ModelCard, ModelPool
from xrouter_lg.pool.served import price_as_served
from xrouter_lg.said import CUT, flaw_of, says_something, served_model, usage_of
from xrouter_lg.types import Charge, PlannedCall, TokenUsage

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


class Workers:
    """Calls the cards of a pool, and knows how they are: health, refusals, overruns."""

    def __init__(self) -> None:
        self._models = LoopModels()
        self._breakers: dict[str, Breaker] = {}
        self._refused: dict[str, frozenset[str]] = {}
        """Parameters that a card's model does not take, by the card's name."""
        self.overruns: dict[str, Decimal] = {}
        """Cards that have cost more than their worst case, and how many times as much."""
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
        lone: bool | None = None,
    ) -> CallResult:
        """Ask a card, with retries by class of failure. Failures are returned, never raised.

        With an allowance (USD) another attempt is made only while its worst case still fits
        beside what the earlier ones may have cost. ``pool`` is where the price of a model that
        was served in another's place is looked up. ``charges`` gets every attempt as it ends,
        a cancelled one too. ``tools``, ``tool_options`` and ``call_options`` are the app's own:
        see :class:`~xrouter_lg.calls.worker.parameters.Bound`.

        ``lone``: whether nobody else can be asked. Then a pause that the provider asks for is
        waited out, within the card's ``timeout_s``; while somebody can, an open circuit ends the
        call before it begins. None where the caller looks after both.
        """
        breaker = self.breaker(f"{kind}:{card.name}")
        charges = [] if charges is None else charges
        prompt_tokens_max += hint_tokens(call.hint)
        if card.params and not isinstance(card.model, str):
            own = _bound_to(card, tools)
            call_options = {**own, **(call_options or {})}
        bound = Bound(tools, tool_options or {}, call_options or {})

        def worst() -> Decimal | None:
            costly = bound.costly()
            return reserve(card, prompt_tokens_max, call.max_tokens, costly, self.overruns)

        searched = card.searches_always or (
            (SEARCH_OPTION in bound.options or SEARCH_OPTION in bound.call)
            and card.maker == "openai"
        )
        bill = _Bill(kind, card, call, pool, worst, searched)
        if call.allowance_usd is not None:
            _ = bill.worst  # as it stands when the call begins
        config = with_traced_cost(config, card, pool, searched=searched)
        watch = stream_watch(config, _own_callbacks(card))
        if watch is not None:
            config = with_handler(config, watch)
        asked = with_hint(messages, call.hint)
        health = Health(breaker)
        failure = Failure(ErrorClass.UNKNOWN, "not tried")
        omitted: set[str] = set()
        retries, patience_s = card.max_retries, card.timeout_s if lone else RETRY_AFTER_LIMIT_S
        attempt = tries = 0
        while True:
            attempt += 1
            if attempt > 1 and not _affordable(call, charges, bill):
                break
            if not health.begin() and lone is False and tries == 0:
                failure = Failure(ErrorClass.CIRCUIT_OPEN, "circuit open after repeated failures")
                break
            started = time.perf_counter()
            prepared = None
            try:
                built = self._models.of(card)  # held until the answer is here, whatever is reloaded
                retries = max(card.max_retries, built.retries)
                model = built.model
                if card.maker == "anthropic":
                    model = with_fitting_thoughts(model, asked, card.name, call.max_tokens)
                refused = omitted | self._refused.get(card.name, frozenset())
                prepared = prepare(model, call, bound, refused)
                message = await _ask(card, prepared, asked, config)
            except asyncio.CancelledError:
                health.cancel()
                charges.append(bill.failed(attempt, started, "cancelled", free=False))
                raise
            except Exception as error:
                failure = classify(error)
                charges.append(
                    bill.failed(attempt, started, failure.error_class, free=failure.free)
                )
                if prepared is not None and failure.error_class is ErrorClass.BAD_REQUEST:
                    found = refused_parameter(error, prepared.sent - omitted)
                    if found is not None and (found[1] or found[0] not in LIMITS):
                        health.cancel()
                        omitted.add(found[0])
                        if found[1]:
                            self._remember(card, found[0], failure)
                        continue
            else:
                flaw = flaw_of(message)
                charge = bill.answered(attempt, started, message, flaw)
                charges.append(self._noting_overrun(card, call, charge, bill))
                if flaw is None or (flaw in CUT and says_something(message)):
                    breaker.success()
                    return CallResult(
                        call.id,
                        card.name,
                        message,
                        tuple(charges),
                        truncated=flaw is not None,
                        streamed=watch is not None and watch.seen,
                    )
                failure = Failure(flaw, _FLAWS[flaw])
            health.failed(failure.error_class)
            if watch is not None and watch.seen:
                break  # a second attempt's text would be glued to the first one's
            tries += 1
            pause = _pause(failure, tries, patience_s)
            if pause is None or tries > retries or (breaker.open and not lone):
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
            streamed=watch is not None and watch.seen,
            retry_after_s=failure.retry_after_s,
        )

    def _remember(self, card: ModelCard, name: str, failure: Failure) -> None:
        with self._lock:
            known = self._refused.get(card.name, frozenset())
            self._refused[card.name] = known | {name}
        if name not in known:
            logger.warning(
                "card %r refuses the parameter %r; it is left out (a limit goes by its other name) "
                "from now on: %s",
                card.name,
                name,
                failure.detail,
            )

    def _noting_overrun(
        self, card: ModelCard, call: PlannedCall, charge: Charge, bill: _Bill
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


async def _ask(
    card: ModelCard, prepared: Prepared, messages: Sequence[BaseMessage], config: RunnableConfig
) -> AIMessage:
    async with asyncio.timeout(card.timeout_s):
        sent = encodable(without_foreign_thoughts(messages, card))
        message = await prepared.runnable.ainvoke(list(sent), config, **prepared.kwargs)
    if not isinstance(message, AIMessage):
        raise TypeError(f"the chat model gave a {type(message).__name__}, not an AIMessage")
    if (provider := card.maker) is not None:
        # Ollama's class says it with the end of a stream, and so not of one that has none.
        message.response_metadata.setdefault("model_provider", provider)
    return message


def _bound_to(card: ModelCard, tools: Sequence[Any]) -> dict[str, Any]:
    """Keywords that are bound to a chat model that was handed in; the app's tools take the place
    of those among them."""
    left = {"callbacks", *(("tools", "tool_choice") if tools else ())}
    return {name: value for name, value in card.params.items() if name not in left}


def _own_callbacks(card: ModelCard) -> Any:
    return card.params.get("callbacks") or getattr(card.model, "callbacks", None)


def with_hint(messages: Sequence[BaseMessage], hint: str | None) -> Sequence[BaseMessage]:
    """The user's messages with a policy's hint as a delimited note behind the system prompt.

    The user's system prompt stays whole and where it is. It is one message, because several chat
    templates refuse a second system message.
    """
    if not hint:
        return messages
    note = f"<routing_note>\n{hint.replace('</', '< /')}\n</routing_note>"
    place = next((i for i, m in enumerate(messages) if isinstance(m, SystemMessage)), None)
    if place is None:
        return [SystemMessage(note), *messages]
    system = messages[place]
    if isinstance(system.content, str):
        content: Any = f"{system.content}\n\n{note}"
    else:
        content = [*system.content, {"type": "text", "text": note}]
    noted = system.model_copy(update={"content": content})
    return [*messages[:place], noted, *messages[place + 1 :]]


def _affordable(call: PlannedCall, charges: Sequence[Charge], bill: _Bill) -> bool:
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


@dataclass(frozen=True)
class _Bill:
    """Makes the charges of one call."""

    kind: Literal["router", "worker"]
    card: ModelCard
    call: PlannedCall
    pool: Iterable[ModelCard]
    reckon: Callable[[], Decimal | None]
    searched: bool
    """Whether each answer has had a search that it does not tell of."""

    @cached_property
    def worst(self) -> Decimal | None:
        """The most that an attempt can cost (USD): reckoned only where a budget or an attempt of
        unknown cost asks for it."""
        return self.reckon()

    def answered(
        self, attempt: int, started: float, message: AIMessage, flaw: ErrorClass | None
    ) -> Charge:
        served, usage = served_model(message), usage_of(message)
        if usage is not None and self.searched:
            usage = usage.with_a_search()
        price = price_as_served(self.card, served, self.pool)
        cost, source = cost_of(message, usage, price)
        error = None if flaw is None else flaw.value
        return self._charge(attempt, started, cost, source, error, usage, served)

    def failed(self, attempt: int, started: float, error: str, *, free: bool) -> Charge:
        """An attempt without an answer. ``free``: refused before any token was generated."""
        price = self.card.effective_price
        cost: Decimal | None = Decimal(0)
        source: str | None = "rejected"
        if not free:
            cost, source = (cost, price.source) if price and price.free else (None, None)
        return self._charge(attempt, started, cost, source, str(error))

    def _charge(
        self,
        attempt: int,
        started: float,
        cost: Decimal | None,
        source: str | None,
        error: str | None,
        usage: TokenUsage | None = None,
        served: str | None = None,
    ) -> Charge:
        return Charge(
            kind=self.kind,
            card=self.card.name,
            model=self.card.model_name,
            attempt=attempt,
            usage=usage,
            cost_usd=cost,
            price_source=source,
            latency_s=time.perf_counter() - started,
            served_model=served,
            error=error,
            held_usd=self.worst if cost is None else None,
            call_id=self.call.id,
        )
