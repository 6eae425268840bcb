"""A router's limits at work: whom a request counts for, and what of it still fits."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from xrouter_lg.calls.ledger import Budget, counted
from xrouter_lg.calls.spend.books import Cap, Hold
from xrouter_lg.calls.spend.limits import SpendLimit, usd_of
from xrouter_lg.calls.spend.store import DEFAULT_SPEND, SpendStore
from xrouter_lg.errors import BudgetStoreError, ConfigurationError
from xrouter_lg.types import Charge, RouteRequest

logger = logging.getLogger(__name__)

LIMITS_KEY = "__xrouter_limits"
"""Key in ``configurable``: limits of the request beside the router's, as a server's key has one."""

_WHO = {
    "thread": ("thread_id",),
    "tenant": ("tenant",),
    "user": ("user_id", "langgraph_auth_user_id"),
    "key": ("key_id",),
}
"""What a request is counted for, by the options that say so."""


class Spending:
    """Limits with the store that counts for them. One object serves any number of requests,
    threads and event loops."""

    def __init__(
        self, store: SpendStore, limits: Iterable[SpendLimit] = (), *, refuse_when_down: bool = True
    ) -> None:
        self.store, self.limits = store, tuple(limits)
        self.refuse_when_down = refuse_when_down
        self.unguarded = 0
        """Calls that were made while the store was down."""

    @classmethod
    def of(cls, budget: Budget | None) -> Spending | None:
        """Those of a budget; None where it has none.

        Raises:
            StoreError: the store can't be opened.
        """
        if budget is None or not budget.limits:
            return None
        store = DEFAULT_SPEND if budget.store is None else budget.store
        opened = store if isinstance(store, SpendStore) else SpendStore(store)
        limits = [limit for limit in budget.limits if isinstance(limit, SpendLimit)]  # all are
        return cls(opened, limits, refuse_when_down=budget.when_down == "refuse")

    def caps(self, options: Mapping[str, Any]) -> tuple[Cap, ...]:
        """The limits that a request falls under, each with its counter of now. ``options`` are
        those of the request. A limit per thread is none without one: see :func:`lone_usd`."""
        own = options.get(LIMITS_KEY)
        limits = (*self.limits, *own) if own else self.limits
        now = self.store.clock()
        caps = []
        for limit in limits:
            who = "" if limit.per == "all" else _who(limit, options)
            if who is not None:
                caps.append(Cap(limit, limit.place(who, now)))
        return tuple(caps)

    async def within(self, request: RouteRequest) -> RouteRequest:
        """The request with no more left than its limits have.

        Raises:
            BudgetStoreError: the store is down, and that refuses requests.
        """
        try:
            left = await self.store.left(request.caps)
        except BudgetStoreError as error:
            self._down(error)
            return request
        usd = max(Decimal(0), usd_of(left.nano))
        if request.remaining_usd is not None and request.remaining_usd <= usd:
            return request
        spent = Decimal(0)
        if request.max_cost_usd is not None and request.remaining_usd is not None:
            spent = request.max_cost_usd - request.remaining_usd
        return replace(request, max_cost_usd=spent + usd, remaining_usd=usd, short_of=left.limit)

    async def hold(self, caps: tuple[Cap, ...], usd: Decimal) -> Hold | None:
        """Set aside what a call may cost; None where the store is down and calls are made anyway.

        Raises:
            BudgetExceededError: it does not fit.
            BudgetStoreError: the store is down, and that refuses calls.
        """
        try:
            return await self.store.hold(caps, usd)
        except BudgetStoreError as error:
            self._down(error)
            self.unguarded += 1
            return None

    def settle(self, caps: tuple[Cap, ...], hold: Hold | None, charges: Iterable[Charge]) -> None:
        """Count what a call has cost, an unknown cost at its worst case."""
        usd = sum((counted(charge) for charge in charges), Decimal(0))
        if hold is None:
            self.store.add([cap.place for cap in caps], usd)
        else:
            self.store.settle(hold, usd)

    def _down(self, error: BudgetStoreError) -> None:
        if self.refuse_when_down:
            raise error
        logger.warning("calls are made without their limits: %s", error)


def lone_usd(spending: Spending | None, options: Mapping[str, Any]) -> Decimal | None:
    """The limit per thread of a request that has no thread, and so is one of its own."""
    if spending is None or options.get("thread_id") is not None:
        return None
    found = [limit.usd for limit in spending.limits if limit.per == "thread"]
    return min((usd for usd in found if isinstance(usd, Decimal)), default=None)


def spending_beside(own: Spending | None, store: SpendStore) -> Spending:
    """A router's spending on the store where a server keeps what its keys spend.

    Raises:
        ConfigurationError: the router counts somewhere else, and a request can't be held in two
            databases at once.
    """
    if own is None:
        return Spending(store)
    if own.store is not store and own.store.url != store.url:
        raise ConfigurationError(
            f"the router's limits are counted in {own.store.shown!r} and the keys' budgets in "
            f"{store.shown!r}; both have to be one: give Budget(store=) the keys' store"
        )
    return own


def _who(limit: SpendLimit, options: Mapping[str, Any]) -> str | None:
    for name in _WHO[limit.per]:
        if (value := options.get(name)) is not None:
            return str(value)
    return None if limit.per == "thread" else ""
