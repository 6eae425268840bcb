"""One transaction over the counters: many holds and settlements of one process at once.

The counters that are touched are locked first, in one order for everybody; what fits is then plain
arithmetic. SQLite has one writer at a time anyway.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite

from xrouter_lg.calls.spend.limits import Place, SpendLimit, usd_of
from xrouter_lg.calls.spend.tables import counters, holds
from xrouter_lg.errors import BudgetExceededError

_PIECE = 200
"""Keys in one statement."""
_FULL = 2**62
"""Where a counter stops: 64 bits end at twice that."""
_LAPSED_KEPT_S = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Cap:
    """A limit with the counter that it holds for, in one request."""

    limit: SpendLimit
    place: Place


@dataclass(frozen=True, slots=True)
class Hold:
    """A sum set aside in some counters (billionths of a USD)."""

    id: str
    nano: int
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """How much is left, and of which limit."""

    caps: tuple[Cap, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        return tuple(cap.place for cap in self.caps)


@dataclass(frozen=True, slots=True)
class Take:
    """Set a sum aside, if it fits into every limit."""

    hold: Hold
    caps: tuple[Cap, ...]

    @property
    def places(self) -> tuple[Place, ...]:
        return self.hold.places


@dataclass(frozen=True, slots=True)
class Settle:
    """Put what a call has cost in the place of what was held for it."""

    hold: Hold
    nano: int

    @property
    def places(self) -> tuple[Place, ...]:
        return self.hold.places


@dataclass(frozen=True, slots=True)
class Add:
    """Count what nothing was held for."""

    places: tuple[Place, ...]
    nano: int


Entry = Look | Take | Settle | Add


@dataclass(frozen=True, slots=True)
class Left:
    """What no other call has set aside or spent of the tightest limit (billionths of a USD)."""

    nano: int
    limit: SpendLimit


@dataclass(slots=True)
class Outcome:
    """What a transaction came to: for each entry what was asked, None, or why not."""

    results: list[Left | BudgetExceededError | None] = field(default_factory=list)
    late: int = 0
    """Settlements of holds that had lapsed."""
    lapsed: int = 0
    """Holds whose holder has not been heard of in time."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a transaction goes by."""

    now: float
    holder: str
    lease_s: float
    count_lapsed: bool
    again: bool = False
    """Whether it may have been committed before, and only its confirmation was lost."""


def read(connection: Connection, looks: Sequence[Look], now: float) -> Outcome | None:
    """What is left, without any lock; None where a hold has lapsed, and has to be cleared first."""
    if connection.execute(_expired(now).limit(1)).first() is not None:
        return None
    books = _Books()
    books.load(connection, {place for look in looks for place in look.places}, lock=False)
    return Outcome([books.left(look.caps) for look in looks])


def write(connection: Connection, entries: Sequence[Entry], terms: Terms) -> Outcome:
    """Everything that ``entries`` ask for, in their order, within the caller's transaction."""
    outcome, books = Outcome(), _Books()
    expired = {row.id: row for row in connection.execute(_expired(terms.now).limit(_PIECE))}
    places = {place for entry in entries for place in entry.places}
    for row in expired.values():
        places.update(_places(row.places))
    books.load(connection, places, lock=True)
    _lapse(connection, books, expired, terms, outcome)
    known = _kept(connection, entries, terms)
    taken: list[Hold] = []
    settled: list[str] = []
    for entry in entries:
        if isinstance(entry, Look):
            outcome.results.append(books.left(entry.caps))
            continue
        refused = None
        if isinstance(entry, Add):
            books.spend(entry.places, entry.nano)
        elif isinstance(entry, Settle):
            row = known.pop(entry.hold.id, None)
            if row is not None:  # else it was settled before
                outcome.late += _settle(books, entry, row)
                settled.append(row.id)
        elif entry.hold.id not in known:
            refused = books.refusal(entry)
            if refused is None:
                books.hold(entry.places, entry.hold.nano)
                taken.append(entry.hold)
        outcome.results.append(refused)
    books.save(connection)
    if taken:
        connection.execute(insert(holds), [_row(hold, terms) for hold in taken])
    for some in _pieces(settled):
        connection.execute(delete(holds).where(holds.c.id.in_(some)))
    return outcome


def renew(connection: Connection, terms: Terms) -> None:
    """Say that the holder is alive, and forget what lapsed long ago."""
    connection.execute(
        update(holds)
        .where(holds.c.holder == terms.holder, ~holds.c.lapsed)
        .values(expires_at=terms.now + terms.lease_s)
    )
    old = terms.now - _LAPSED_KEPT_S
    connection.execute(delete(holds).where(holds.c.lapsed, holds.c.expires_at < old))


class _Books:
    """Counters in memory, as the transaction has locked them."""

    def __init__(self) -> None:
        self._sums: dict[Place, list[int]] = {}
        self._changed: set[Place] = set()

    def load(self, connection: Connection, places: Iterable[Place], *, lock: bool) -> None:
        wanted = sorted(set(places))
        self._find(connection, wanted, lock)
        missing = [place for place in wanted if place not in self._sums]
        if missing and lock:
            kind = sqlite if connection.dialect.name == "sqlite" else postgresql
            rows = [{**place._asdict(), "spent": 0, "held": 0} for place in missing]
            connection.execute(kind.insert(counters).on_conflict_do_nothing(), rows)
            self._find(connection, missing, lock)
        for place in missing:
            self._sums.setdefault(place, [0, 0])

    def _find(self, connection: Connection, places: Sequence[Place], lock: bool) -> None:
        c = counters.c
        for some in _pieces(places):
            query = select(counters).where(tuple_(c.per, c.who, c.period).in_(some))
            query = query.order_by(c.per, c.who, c.period)
            for row in connection.execute(query.with_for_update() if lock else query):
                self._sums[Place(row.per, row.who, row.period)] = [row.spent, row.held]

    def left(self, caps: Iterable[Cap]) -> Left:
        def of(cap: Cap) -> Left:
            return Left(cap.limit.nano - sum(self._sums[cap.place]), cap.limit)

        return min(map(of, caps), key=lambda found: found.nano)

    def refusal(self, take: Take) -> BudgetExceededError | None:
        tightest = self.left(take.caps)
        if take.hold.nano <= tightest.nano:
            return None
        return over_limit(take.hold.nano, tightest)

    def hold(self, places: Iterable[Place], nano: int) -> None:
        for place in places:
            sums = self._sums[place]
            sums[1] = max(0, min(_FULL, sums[1] + nano))
            self._changed.add(place)

    def spend(self, places: Iterable[Place], nano: int) -> None:
        for place in places:
            sums = self._sums[place]
            sums[0] = max(0, min(_FULL, sums[0] + nano))
            self._changed.add(place)

    def save(self, connection: Connection) -> None:
        if not self._changed:
            return
        rows = [
            {"a": p.per, "b": p.who, "c": p.period, "s": self._sums[p][0], "h": self._sums[p][1]}
            for p in sorted(self._changed)
        ]
        connection.execute(_SAVE, rows)


_SAVE = (
    update(counters)
    .where(
        counters.c.per == bindparam("a"),
        counters.c.who == bindparam("b"),
        counters.c.period == bindparam("c"),
    )
    .values(spent=bindparam("s"), held=bindparam("h"))
)


def over_limit(nano: int, left: Left) -> BudgetExceededError:
    """The error of a call that a limit has no room for."""
    error = BudgetExceededError(
        f"a call may cost up to ${usd_of(nano):f} and ${usd_of(max(0, left.nano)):f} of the limit "
        f"of {left.limit} is left; wait for its next period, raise it, or lower max_tokens"
    )
    error.per = left.limit.per
    return error


def _expired(now: float) -> Any:
    return select(holds).where(~holds.c.lapsed, holds.c.expires_at < now)


def _lapse(
    connection: Connection, books: _Books, expired: dict[str, Any], terms: Terms, outcome: Outcome
) -> None:
    """Give back what holders have set aside who were not heard of in time."""
    if not expired:
        return
    # One of them may have been renewed or settled until the counters were locked.
    lapsing = (
        update(holds)
        .where(holds.c.id.in_(expired), ~holds.c.lapsed, holds.c.expires_at < terms.now)
        .values(lapsed=True, counted=terms.count_lapsed)
        .returning(holds.c.id)
    )
    for (hold_id,) in connection.execute(lapsing).all():
        row = expired[hold_id]
        places = _places(row.places)
        books.hold(places, -row.nano)
        if terms.count_lapsed:
            books.spend(places, row.nano)
        outcome.lapsed += 1


def _kept(connection: Connection, entries: Sequence[Entry], terms: Terms) -> dict[str, Any]:
    """The holds that are there, of those that are settled, or were taken by an earlier try."""
    kinds = (Settle, Take) if terms.again else (Settle,)
    found: dict[str, Any] = {}
    for some in _pieces([entry.hold.id for entry in entries if isinstance(entry, kinds)]):
        for row in connection.execute(select(holds).where(holds.c.id.in_(some))):
            found[row.id] = row
    return found


def _settle(books: _Books, entry: Settle, row: Any) -> bool:
    """Whether the hold had lapsed."""
    if not row.lapsed:
        books.hold(entry.places, -row.nano)
    books.spend(entry.places, entry.nano - (row.nano if row.counted else 0))
    return bool(row.lapsed)


def _row(hold: Hold, terms: Terms) -> dict[str, Any]:
    return {
        "id": hold.id,
        "holder": terms.holder,
        "nano": hold.nano,
        "places": json.dumps(hold.places),
        "expires_at": terms.now + terms.lease_s,
        "lapsed": False,
        "counted": False,
    }


def _places(text: str) -> tuple[Place, ...]:
    return tuple(Place(*parts) for parts in json.loads(text))


def _pieces(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[start : start + _PIECE] for start in range(0, len(items), _PIECE))
