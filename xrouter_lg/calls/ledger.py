"""Charges, reservations and budgets: what a request has paid, and what it still may."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any, Literal

from xrouter_lg.calls.money import parse_usd
from xrouter_lg.calls.spend.limits import SpendLimit
from xrouter_lg.errors import BudgetExceededError, ConfigurationError
from xrouter_lg.json_text import shown
from xrouter_lg.types import Charge

OnExceeded = Literal["cheapest", "error", "interrupt"]

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Budget:
    """Hard limits in USD. No call is made whose worst case does not fit into what is left.

    ``per_request_usd`` is for each request; ``limits``, each a
    :class:`~xrouter_lg.calls.spend.limits.SpendLimit` or its fields as a mapping, are for what many
    of them cost together, in every process that has the same ``store``: the path of a SQLite file
    (``xrouter_spend.db`` where none is given), the URL of a Postgres database, or a
    :class:`~xrouter_lg.calls.spend.store.SpendStore`.

    ``on_exceeded`` says what happens when no candidate fits: ``cheapest`` lowers the cheapest
    card's ``max_tokens`` to what is left pays for, ``error`` raises
    :class:`BudgetExceededError`, ``interrupt`` asks a human through LangGraph's ``interrupt``
    (resume with a new limit in USD, or with a false value to refuse); a limit of ``limits`` can't
    be raised so, and is an error then.

    A card whose price is unknown is no candidate under a limit, unless ``unpriced_usd`` says what
    each call to such a card shall count. ``when_down`` says what happens while the store does not
    answer: ``refuse`` raises :class:`BudgetStoreError`, ``allow`` makes the calls without limits
    and counts them afterwards.

    Raises:
        ConfigurationError: a limit that is no finite number above zero, or an unknown word.
    """

    per_request_usd: Decimal | float | str | None = None
    on_exceeded: OnExceeded = "cheapest"
    limits: Sequence[SpendLimit | Mapping[str, Any]] = ()
    store: Any = None
    unpriced_usd: Decimal | float | str | None = None
    when_down: Literal["refuse", "allow"] = "refuse"

    def __post_init__(self) -> None:
        for name in ("per_request_usd", "unpriced_usd"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, parse_usd(value, f"Budget.{name}"))
        words = {
            "on_exceeded": ("cheapest", "error", "interrupt"),
            "when_down": ("refuse", "allow"),
        }
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise ConfigurationError(
                    f"Budget.{name} is {getattr(self, name)!r}; it must be "
                    f"{', '.join(map(repr, known[:-1]))} or {known[-1]!r}"
                )
        limits: Any = self.limits
        if not isinstance(limits, list | tuple):
            raise ConfigurationError(
                f"Budget.limits is {shown(limits)}; it must be a list of limits, such as "
                "[{'usd': 5, 'per': 'thread'}]"
            )
        read = [
            one if isinstance(one, SpendLimit) else SpendLimit.from_dict(one, f"Budget.limits[{n}]")
            for n, one in enumerate(limits)
        ]
        object.__setattr__(self, "limits", tuple(read))

    @classmethod
    def from_dict(cls, data: Any) -> Budget:
        """A budget from the mapping that a pool file holds under ``budget``.

        Raises:
            ConfigurationError: an unknown key or a bad value.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(data, Mapping) or not set(data) <= set(known):
            raise ConfigurationError(
                f"budget is {shown(data)}; it must be a mapping of {', '.join(known)}"
            )
        return cls(**data)


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
