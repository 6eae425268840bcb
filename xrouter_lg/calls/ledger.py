"""Charges, reservations and budgets: what a request has paid, and what it still may."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from xrouter_lg.calls.money import parse_usd
from xrouter_lg.errors import BudgetExceededError, ConfigurationError
from xrouter_lg.types import Charge

OnExceeded = Literal["cheapest", "error", "interrupt"]

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard limit in USD. No call is made whose worst case does not fit into what is left.

    ``on_exceeded`` says what happens when no candidate fits: ``cheapest`` lowers the cheapest
    card's ``max_tokens`` to what is left pays for, ``error`` raises
    :class:`BudgetExceededError`, ``interrupt`` asks a human through LangGraph's ``interrupt``
    (resume with a new limit in USD, or with a false value to refuse).

    Raises:
        ConfigurationError: a limit that is no finite number above zero.
    """

    per_request_usd: Decimal | float | str | None = None
    on_exceeded: OnExceeded = "cheapest"

    def __post_init__(self) -> None:
        if self.per_request_usd is not None:
            limit = parse_usd(self.per_request_usd, "Budget.per_request_usd")
            object.__setattr__(self, "per_request_usd", limit)
        if self.on_exceeded not in ("cheapest", "error", "interrupt"):
            raise ConfigurationError(
                f"Budget.on_exceeded is {self.on_exceeded!r}; it must be 'cheapest', 'error' or "
                "'interrupt'"
            )


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """Money set aside for one call (USD)."""

    amount: Decimal


class RequestAccount:
    """One request's limit: reserve the worst case before a call, settle by its charges after.

    A charge of unknown cost counts with its worst case, so that a limit holds whatever a failed
    attempt has really cost. Thread-safe.
    """

    def __init__(self, limit_usd: Decimal | None, charges: Iterable[Charge] = ()) -> None:
        self.limit_usd = limit_usd
        self._lock = threading.Lock()
        self._spent = sum((counted(charge) for charge in charges), _ZERO)
        self._open: set[Reservation] = set()

    @property
    def remaining(self) -> Decimal | None:
        """What is neither spent nor reserved (USD), None without a limit."""
        if self.limit_usd is None:
            return None
        with self._lock:
            return self._left()

    @property
    def spent(self) -> Decimal:
        """What settled calls have cost (USD), unknown costs at their worst case."""
        with self._lock:
            return self._spent

    def _left(self) -> Decimal:
        assert self.limit_usd is not None
        return self.limit_usd - self._spent - sum((held.amount for held in self._open), _ZERO)

    def reserve(self, amount: Decimal) -> Reservation:
        """Set ``amount`` USD aside.

        Raises:
            BudgetExceededError: less than that is left. Nothing is then set aside.
        """
        with self._lock:
            if self.limit_usd is not None and amount > (left := self._left()):
                raise BudgetExceededError(
                    f"a call may cost up to ${amount:f} and ${left:f} of the request's "
                    f"${self.limit_usd:f} is left; raise max_cost_usd (or "
                    "Budget.per_request_usd), or lower max_tokens"
                )
            held = Reservation(amount)
            self._open.add(held)
            return held

    def settle(self, reservation: Reservation, charges: Iterable[Charge]) -> None:
        """Put what was really charged in the place of a reservation. Settling twice counts once."""
        with self._lock:
            if reservation in self._open:
                self._open.remove(reservation)
                self._spent += sum((counted(charge) for charge in charges), _ZERO)


def counted(charge: Charge) -> Decimal:
    """What a budget counts for a charge (USD): its cost, or its worst case while unknown."""
    if charge.cost_usd is not None:
        return charge.cost_usd
    return charge.held_usd or _ZERO


@dataclass(frozen=True, slots=True)
class LedgerTotals:
    """Sums over a request's charges (USD). A total is None as soon as one part is unknown."""

    total: Decimal | None
    router: Decimal | None
    worker: Decimal | None
    known: Decimal
    estimated: Decimal
    """What is known, and what the rest has probably cost."""


def totals(charges: Iterable[Charge]) -> LedgerTotals:
    """Router and workers apart, and together."""
    router: Decimal | None = _ZERO
    worker: Decimal | None = _ZERO
    known = estimated = _ZERO
    for charge in charges:
        cost = charge.cost_usd
        known += cost or _ZERO
        estimated += (charge.estimate_usd or _ZERO) if cost is None else cost
        if charge.kind == "router":
            router = None if router is None or cost is None else router + cost
        else:
            worker = None if worker is None or cost is None else worker + cost
    together = None if router is None or worker is None else router + worker
    return LedgerTotals(together, router, worker, known, estimated)
