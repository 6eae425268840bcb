"""What a request's calls cost whoever asked, as they are made: also where nobody waits any more."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from decimal import Decimal
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.attempt import PLAIN, CallResult, CallTerms, Workers
from xrouter_lg.calls.ledger import counted
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.serve.access.worker_models import ServedModels
from xrouter_lg.serve.worker_options import worker_options
from xrouter_lg.types import Charge, PlannedCall


class Meter:
    """The calls of one HTTP request."""

    def __init__(self) -> None:
        self.charges: list[Charge] = []

    @property
    def spent_usd(self) -> Decimal:
        """What is charged so far; an unknown cost counts with its worst case."""
        return sum((counted(charge) for charge in self.charges), Decimal(0))

    def add(self, charges: Sequence[Charge]) -> None:
        self.charges += charges


METER: ContextVar[Meter | None] = ContextVar("xrouter_meter", default=None)
"""The meter of the HTTP request that is being answered."""


class MeteredWorkers(Workers):
    """Workers that put every attempt on the running request's meter, a cancelled one too."""

    def __init__(self) -> None:
        super().__init__()
        self._models: ServedModels = ServedModels()

    async def aclose(self) -> None:
        """Close what was opened to workers."""
        await self._models.aclose()

    async def call(
        self,
        card: ModelCard,
        call: PlannedCall,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
        terms: CallTerms = PLAIN,
        *,
        charges: list[Charge] | None = None,
        **told: Any,
    ) -> CallResult:
        if terms.bound.call:
            taken = worker_options(self.model(card), terms.bound.call)
            terms = replace(terms, bound=replace(terms.bound, call=taken))
        charges = [] if charges is None else charges
        meter = METER.get() if terms.kind == "worker" else None
        try:
            return await super().call(card, call, messages, config, terms, charges=charges, **told)
        finally:
            if meter is not None:
                meter.add(charges)
