"""The charges of one call: what each attempt has cost, or at most, or probably."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Literal

from langchain_core.messages import AIMessage

from xrouter_lg.calls.failures import Failure
from xrouter_lg.calls.money import AsAsked, cost_of, runs_by_itself, tools_of
from xrouter_lg.calls.usual_cost import UsualCost
from xrouter_lg.calls.worker.parameters import Bound
from xrouter_lg.errors import ErrorClass
from xrouter_lg.pool.card import SEARCH_OPTION, ModelCard
from xrouter_lg.pool.served import price_as_served
from xrouter_lg.said import counts_on, served_model
from xrouter_lg.types import Charge, PlannedCall, TokenUsage

_MAY_HOLD_TOOLS = frozenset({"tools", "model_kwargs", "extra_body"})


def asked_of(card: ModelCard, bound: Bound) -> AsAsked:
    """What a request says of its answer's usage."""
    searched = card.searches_always or (
        (SEARCH_OPTION in bound.options or SEARCH_OPTION in bound.call) and card.maker == "openai"
    )
    listed = (*bound.tools, *(bound.call.get("tools") or ()))
    hosted = any(isinstance(tool, Mapping) for tool in listed)  # those are no functions
    if not hosted and _MAY_HOLD_TOOLS.isdisjoint(card.sent_params):
        return AsAsked(searched)
    tools = tools_of(card, bound.costly())
    return AsAsked(searched, tuple(filter(runs_by_itself, tools)))


@dataclass(frozen=True)
class AttemptBill:
    """Makes the charges of one call."""

    kind: Literal["router", "worker"]
    card: ModelCard
    call: PlannedCall
    pool: Iterable[ModelCard]
    reckon: Callable[[], Decimal | None]
    usual: UsualCost
    asked: AsAsked
    size: int
    """Characters of the request."""

    @cached_property
    def worst(self) -> Decimal | None:
        """The most that an attempt can cost (USD): reckoned only where a budget or an attempt of
        unknown cost asks for it."""
        return self.reckon()

    def answered(
        self, attempt: int, started: float, message: AIMessage, flaw: ErrorClass | None
    ) -> Charge:
        served, usage = served_model(message), self.asked.usage(message)
        price = price_as_served(self.card, served, self.pool)
        cost, source = cost_of(message, usage, price)
        error = None if flaw is None else flaw.value
        said = characters(message)
        if cost is None:
            charge = self._unknown(attempt, started, error, said, usage, served)
            least, _ = cost_of(message, self.asked.told(message), price)
            return charge if least is None else _at_least(least, charge)
        if flaw is not None and said and counts_on(message):
            return _at_least(cost, self._unknown(attempt, started, error, said, usage, served))
        if self.size:
            self.usual.note(self.card, self.size, said, cost)
        return self._charge(attempt, started, cost, source, error, usage, served)

    def failed(
        self,
        attempt: int,
        started: float,
        error: str,
        failure: Failure | None = None,
        said: int | None = None,
    ) -> Charge:
        """An attempt without an answer: free where it was refused before any token. ``said``: how
        many characters of an answer that streamed had come, None for one that did not stream: of
        that the provider may have made, and bills, the whole."""
        if failure is not None and failure.free:
            return self._charge(attempt, started, Decimal(0), "rejected", str(error))
        price = self.card.effective_price
        if price is not None and price.free:
            return self._charge(attempt, started, Decimal(0), price.source, str(error))
        charge = self._unknown(attempt, started, str(error), said)
        if failure is not None and failure.unbilled and not said:
            return replace(charge, estimate_usd=Decimal(0))
        return charge

    def _unknown(
        self,
        attempt: int,
        started: float,
        error: str | None,
        said: int | None,
        usage: TokenUsage | None = None,
        served: str | None = None,
    ) -> Charge:
        charge = self._charge(attempt, started, None, None, error, usage, served)
        usual = self.usual.of(self.card, self.size, said)
        if usual is not None and self.worst is not None:
            usual = min(usual, self.worst)
        return replace(charge, held_usd=self.worst, estimate_usd=usual)

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
            call_id=self.call.id,
        )


def _at_least(least: Decimal, charge: Charge) -> Charge:
    """A charge of unknown cost, of which a part is known (USD)."""
    return replace(charge, estimate_usd=max(least, charge.estimate_usd or least))


def characters(message: AIMessage) -> int:
    """Of what a user, or a tool, sees of an answer."""
    calls = sum(len(str(call.get("args") or "")) for call in message.tool_calls)
    return len(message.text) + calls
