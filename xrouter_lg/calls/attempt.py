"""Workers: one call to a card, with its attempts, their charges and the card's health."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, SystemMessage
from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.breaker import Breaker
from xrouter_lg.calls.chat_model import build_chat_model, output_limit
from xrouter_lg.calls.failures import RETRYABLE, UNHEALTHY, Failure, backoff_s, classify
from xrouter_lg.calls.ledger import counted
from xrouter_lg.calls.money import cost_of, hint_tokens, worst_case
from xrouter_lg.calls.stream_watch import stream_watch, with_handler
from xrouter_lg.errors import ErrorClass
from xrouter_lg.pool.pool import ModelCard, ModelPool
from xrouter_lg.pool.served import price_as_served
from xrouter_lg.said import CUT, flaw_of, says_something, served_model, usage_of
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
    """The chat models of a pool's cards, built once per event loop, and the cards' health."""

    def __init__(self) -> None:
        self._shared: dict[int, tuple[ModelCard, BaseChatModel]] = {}
        # An HTTP connection pool belongs to the event loop that opened it.
        self._by_loop: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[int, _Built]] = (
            weakref.WeakKeyDictionary()
        )
        self._breakers: dict[str, Breaker] = {}
        self._lock = threading.Lock()

    def prepare(self, pool: ModelPool) -> None:
        """Build every card's model now, so that a bad card is found before the first request.

        Raises:
            PoolError, MissingKeyError: as :func:`build_chat_model`.
        """
        for card in pool:
            if not isinstance(card.model, BaseChatModel):
                self._shared.setdefault(id(card), (card, build_chat_model(card)))

    def model(self, card: ModelCard) -> BaseChatModel:
        """The card's chat model for the running event loop."""
        return self._built(card).model

    def _built(self, card: ModelCard) -> _Built:
        if isinstance(card.model, BaseChatModel):
            return _Built(card, card.model)
        loop = asyncio.get_running_loop()
        built = self._by_loop.get(loop)
        if built is None:
            with self._lock:
                for old in [old for old in self._by_loop if old.is_closed()]:
                    del self._by_loop[old]
                built = self._by_loop.setdefault(loop, {})
        entry = built.get(id(card))
        if entry is None:
            with self._lock:
                # The first loop takes over what prepare() built; it has not been used yet.
                _, model = self._shared.pop(id(card), (card, None))
            model = model or build_chat_model(card)
            entry = _Built(card, model)
            _close_with_loop(loop, card, model, weakref.ref(self))
            if len(built) >= 256:  # cards of pools that were reloaded away
                built.pop(next(iter(built)))
            built[id(card)] = entry
        return entry

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
        tools: Sequence[Mapping[str, Any]] = (),
        tool_options: Mapping[str, Any] | None = None,
    ) -> CallResult:
        """Ask a card, with retries by class of failure. Failures are returned, never raised.

        With an allowance (USD) another attempt is made only while its worst case still fits
        beside what the earlier ones may have cost. ``pool`` is where the price of a model that
        was served in another's place is looked up. ``charges`` gets every attempt as it ends,
        a cancelled one too.
        """
        breaker = self.breaker(f"{kind}:{card.name}")
        charges = [] if charges is None else charges
        prompt_tokens_max += hint_tokens(call.hint)
        bill = _Bill(kind, card, call, pool, worst_case(card, prompt_tokens_max, call.max_tokens))
        watch = stream_watch(config)
        if watch is not None:
            config = with_handler(config, watch)
        asked = with_hint(messages, call.hint)
        failure = Failure(ErrorClass.UNKNOWN, "not tried")
        for attempt in range(1, card.max_retries + 2):
            if attempt > 1 and not _affordable(call, charges, bill.worst):
                break
            breaker.begin()
            started = time.perf_counter()
            try:
                message = await self._attempt(card, call, asked, config, tools, tool_options)
            except asyncio.CancelledError:
                breaker.cancel()
                charges.append(bill.failed(attempt, started, "cancelled", free=False))
                raise
            except Exception as error:
                failure = classify(error)
                charges.append(
                    bill.failed(attempt, started, failure.error_class, free=failure.free)
                )
            else:
                flaw = flaw_of(message)
                charges.append(bill.answered(attempt, started, message, flaw))
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
            if failure.error_class in UNHEALTHY:
                breaker.failure()
            else:
                breaker.cancel()
            if watch is not None and watch.seen:
                break  # a second attempt's text would be glued to the first one's
            pause = _pause(failure, attempt)
            if pause is None or attempt > card.max_retries or breaker.open:
                break
            await asyncio.sleep(pause)
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

    async def _attempt(
        self,
        card: ModelCard,
        call: PlannedCall,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
        tools: Sequence[Mapping[str, Any]],
        tool_options: Mapping[str, Any] | None,
    ) -> AIMessage:
        built = self._built(card)  # held until the answer is here, whatever is reloaded meanwhile
        model = built.model
        kwargs: dict[str, Any] = {}
        if call.temperature is not None:
            kwargs["temperature"] = call.temperature
        if call.max_tokens is not None:
            kwargs.update(output_limit(model, call.max_tokens))
        runnable = (
            model.bind_tools([dict(tool) for tool in tools], **(tool_options or {}))
            if tools
            else model
        )
        async with asyncio.timeout(card.timeout_s):
            message = await runnable.ainvoke(list(messages), config, **kwargs)
        if not isinstance(message, AIMessage):
            raise TypeError(f"the chat model gave a {type(message).__name__}, not an AIMessage")
        return message


@dataclass(frozen=True, slots=True)
class _Built:
    """A card's chat model in one event loop. The card keeps its id from being given again."""

    card: ModelCard
    model: BaseChatModel


def _close_with_loop(
    loop: asyncio.AbstractEventLoop,
    card: ModelCard,
    model: BaseChatModel,
    workers: weakref.ref[Workers],
) -> None:
    """Close the client that was made for this loop when the loop shuts down (``asyncio.run``,
    uvicorn) or the model goes. A loop has one hook for this: it closes its async generators."""
    client = getattr(model, "http_async_client", None)
    if client is None or "http_async_client" in card.params:
        return
    key = id(card)

    async def keep() -> AsyncGenerator[None, None]:
        # Neither model nor workers may be reached from here: that would keep them for ever.
        try:
            yield
        finally:
            finalizer.detach()
            owner = workers()
            if owner is not None:
                owner._by_loop.get(loop, {}).pop(key, None)
            await client.aclose()

    keeper = keep()
    # finalize keeps the generator, and with it the client, out of what goes with the model.
    finalizer = weakref.finalize(model, _close_soon, loop, keeper)
    finalizer.atexit = False
    with contextlib.suppress(StopIteration):  # runs to the yield, and so registers with the loop
        keeper.__anext__().send(None)


def _close_soon(loop: asyncio.AbstractEventLoop, keeper: AsyncGenerator[None, None]) -> None:
    async def close() -> None:
        await keeper.aclose()

    if not loop.is_closed():
        with contextlib.suppress(RuntimeError):  # closed in this moment
            loop.call_soon_threadsafe(lambda: loop.create_task(close()))


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


def _affordable(call: PlannedCall, charges: Sequence[Charge], worst: Decimal | None) -> bool:
    if call.allowance_usd is None:
        return True
    spent = sum((counted(charge) for charge in charges), Decimal(0))
    return worst is not None and spent + worst <= call.allowance_usd


def _pause(failure: Failure, attempt: int) -> float | None:
    """Seconds before the next attempt, None when there should be none."""
    if failure.error_class not in RETRYABLE:
        return None
    if failure.retry_after_s is not None:
        if failure.retry_after_s > RETRY_AFTER_LIMIT_S:
            return None
        return failure.retry_after_s
    return backoff_s(attempt, first_s=_BACKOFF_S, longest_s=_BACKOFF_LIMIT_S)


@dataclass(frozen=True, slots=True)
class _Bill:
    """Makes the charges of one call. ``worst`` is the most an attempt can cost (USD)."""

    kind: Literal["router", "worker"]
    card: ModelCard
    call: PlannedCall
    pool: Iterable[ModelCard]
    worst: Decimal | None

    def answered(
        self, attempt: int, started: float, message: AIMessage, flaw: ErrorClass | None
    ) -> Charge:
        served, usage = served_model(message), usage_of(message)
        price = price_as_served(self.card, served, self.pool)
        cost, source = cost_of(message, usage, price)
        charge = self._charge(attempt, started, cost, source)
        error = None if flaw is None else flaw.value
        return replace(charge, usage=usage, served_model=served, error=error)

    def failed(self, attempt: int, started: float, error: str, *, free: bool) -> Charge:
        """An attempt without an answer. ``free``: refused before any token was generated."""
        cost, source = (Decimal(0), "rejected") if free else (None, None)
        return replace(self._charge(attempt, started, cost, source), error=str(error))

    def _charge(
        self, attempt: int, started: float, cost: Decimal | None, source: str | None
    ) -> Charge:
        return Charge(
            kind=self.kind,
            card=self.card.name,
            model=self.card.model_name,
            attempt=attempt,
            usage=None,
            cost_usd=cost,
            price_source=source,
            latency_s=time.perf_counter() - started,
            held_usd=self.worst if cost is None else None,
            call_id=self.call.id,
        )
