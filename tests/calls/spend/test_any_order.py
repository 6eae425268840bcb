"""Holds, settlements, deaths and late comers in any order, against a plain model of them."""

from __future__ import annotations

import asyncio
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from xrouter_lg.calls.spend.books import Cap, Hold
from xrouter_lg.calls.spend.limits import SpendLimit
from xrouter_lg.calls.spend.store import SpendStore
from xrouter_lg.errors import BudgetExceededError

LIMITS = (SpendLimit(10), SpendLimit(4, per="thread"))
LEASE_S = 60.0
CENTS = st.integers(0, 500).map(lambda n: Decimal(n) / 100)


class SpendingInAnyOrder(RuleBasedStateMachine):
    """Two processes on one store. Each hold of the model is open, lapsed or gone; they are drawn in
    the order of their taking, for their names are of chance."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000.0
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "spend.db"
        # So long a lease on the real clock that nobody reports by itself.
        self.stores = [SpendStore(path, lease_s=LEASE_S, clock=lambda: self.now) for _ in range(2)]
        self.open: dict[str, tuple[int, Hold, Decimal, str, float]] = {}
        self.gone: list[tuple[int, Hold]] = []
        self.late: dict[str, tuple[int, Hold, str]] = {}
        self.spent = {"": Decimal(0), "a": Decimal(0), "b": Decimal(0)}

    def caps(self, who: str) -> tuple[Cap, ...]:
        places = (LIMITS[0].place("", self.now), LIMITS[1].place(who, self.now))
        return tuple(Cap(limit, place) for limit, place in zip(LIMITS, places, strict=True))

    def left(self, who: str) -> Decimal:
        held = {"": Decimal(0), who: Decimal(0)}
        for _, _, usd, holder, _ in self.open.values():
            held[""] += usd
            if holder == who:
                held[who] += usd
        alone, every = LIMITS[1].usd, LIMITS[0].usd
        assert isinstance(alone, Decimal) and isinstance(every, Decimal)
        return min(every - held[""] - self.spent[""], alone - held[who] - self.spent[who])

    def lapse(self) -> None:
        for name, (store, hold, _, who, until) in list(self.open.items()):
            if until < self.now:
                del self.open[name]
                self.late[name] = (store, hold, who)

    @rule(store=st.integers(0, 1), usd=CENTS, who=st.sampled_from("ab"))
    def take(self, store: int, usd: Decimal, who: str) -> None:
        self.lapse()
        fits = usd <= self.left(who)
        try:
            hold = run(self.stores[store].hold(self.caps(who), usd))
        except BudgetExceededError:
            assert not fits
        else:
            assert fits
            self.open[hold.id] = (store, hold, usd, who, self.now + LEASE_S)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), share=st.integers(0, 100))
    def settle(self, data: Any, share: int) -> None:
        self.lapse()
        if self.open:
            name = data.draw(st.sampled_from(list(self.open)))
            store, hold, usd, who, _ = self.open.pop(name)
            self._settled(store, hold, usd * share / 100, who)

    @precondition(lambda self: self.late)
    @rule(data=st.data())
    def settle_late(self, data: Any) -> None:
        store, hold, who = self.late.pop(data.draw(st.sampled_from(list(self.late))))
        self._settled(store, hold, Decimal("0.01"), who)

    @precondition(lambda self: self.gone)
    @rule(data=st.data(), usd=CENTS)
    def settle_again(self, data: Any, usd: Decimal) -> None:
        store, hold = data.draw(st.sampled_from(self.gone))
        self.stores[store].settle(hold, usd)

    @rule(seconds=st.sampled_from([1.0, 30.0, 61.0]))
    def wait(self, seconds: float) -> None:
        for store in self.stores:
            assert store.flush()
        self.now += seconds

    def _settled(self, store: int, hold: Hold, usd: Decimal, who: str) -> None:
        self.stores[store].settle(hold, usd)
        self.gone.append((store, hold))
        self.spent[""] += usd
        self.spent[who] += usd

    @invariant()
    def both_see_what_the_model_says(self) -> None:
        self.lapse()
        for store in self.stores:
            assert store.flush()
        for store in self.stores:
            for who in "ab":
                seen = run(store.left(self.caps(who)))
                assert Decimal(seen.nano) / 10**9 == self.left(who)

    @invariant()
    def no_limit_is_passed_but_by_late_comers(self) -> None:
        for who in "ab":
            assert self.left(who) >= -Decimal("0.01") * len(self.gone)

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.folder.cleanup()


def run(what: Any) -> Any:
    return asyncio.run(what)


TestSpendingInAnyOrder = SpendingInAnyOrder.TestCase
TestSpendingInAnyOrder.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, print_blob=True
)
