"""Reservations, budgets and totals."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    rule,
)

from xrouter_lg.calls.ledger import (
    Budget,
    RequestAccount,
    Reservation,
    counted,
    totals,
)
from xrouter_lg.calls.money import parse_usd
from xrouter_lg.errors import BudgetExceededError, ConfigurationError, RequestOptionError
from xrouter_lg.types import Charge

USD = st.decimals(min_value=0, max_value=10, places=6)


def charge(
    cost: str | Decimal | None, *, held: str | Decimal | None = None, kind: Any = "worker"
) -> Charge:
    return Charge(
        kind=kind,
        card="a",
        model="m",
        attempt=1,
        usage=None,
        cost_usd=None if cost is None else Decimal(cost),
        price_source="card",
        latency_s=0.1,
        held_usd=None if held is None else Decimal(held),
    )


# --- budget --------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, -1, "0", float("nan"), float("inf"), True, "lots", [], "-0"])
def test_a_limit_that_is_no_amount_is_refused_with_its_value(value: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"Budget.per_request_usd is") as caught:
        Budget(per_request_usd=value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", [0.1, "0.1", Decimal("0.1")])
def test_a_limit_is_kept_as_an_exact_decimal(value: Any) -> None:
    assert Budget(per_request_usd=value).per_request_usd == Decimal("0.1")


def test_no_limit_is_a_budget_too() -> None:
    assert Budget().per_request_usd is None


def test_an_unknown_way_with_an_exceeded_budget_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'cheapest', 'error' or 'interrupt'"):
        Budget(on_exceeded="ignore")  # type: ignore[arg-type]


def test_a_bad_limit_of_a_request_is_the_requests_error() -> None:
    with pytest.raises(RequestOptionError, match="max_cost_usd is -1"):
        parse_usd(-1, "max_cost_usd", RequestOptionError)


# --- reserve and settle --------------------------------------------------------------------


def account(limit: str | None = "1", charges: list[Charge] | None = None) -> RequestAccount:
    return RequestAccount(None if limit is None else Decimal(limit), charges or [])


def test_a_reservation_is_gone_from_what_remains() -> None:
    it = account()
    it.reserve(Decimal("0.4"))
    assert it.remaining == Decimal("0.6")


def test_all_that_is_left_may_be_reserved() -> None:
    it = account()
    it.reserve(Decimal(1))
    assert it.remaining == 0


def test_more_than_is_left_is_refused_with_both_amounts() -> None:
    it = account()
    it.reserve(Decimal("0.7"))
    with pytest.raises(BudgetExceededError, match=r"up to \$0.31 and \$0.3 of the request's \$1"):
        it.reserve(Decimal("0.31"))


def test_a_refused_reservation_sets_nothing_aside() -> None:
    it = account()
    with pytest.raises(BudgetExceededError):
        it.reserve(Decimal(2))
    assert it.remaining == 1


def test_tiny_amounts_are_not_shown_in_powers_of_ten() -> None:
    it = account("0.0000001")
    with pytest.raises(BudgetExceededError, match=r"\$0\.0000002 and \$0\.0000001 of"):
        it.reserve(Decimal("0.0000002"))


def test_settling_puts_the_real_cost_in_place_of_the_reservation() -> None:
    it = account()
    it.settle(it.reserve(Decimal("0.5")), [charge("0.1"), charge("0.05")])
    assert it.remaining == Decimal("0.85")


def test_settling_without_a_charge_gives_everything_back() -> None:
    it = account()
    it.settle(it.reserve(Decimal("0.5")), [])
    assert it.remaining == 1


def test_an_unknown_cost_counts_as_its_worst_case() -> None:
    it = account()
    it.settle(it.reserve(Decimal("0.5")), [charge(None, held="0.5")])
    assert it.remaining == Decimal("0.5")


def test_a_cost_of_zero_is_known_and_goes_before_the_worst_case() -> None:
    assert counted(charge("0", held="0.5")) == 0


def test_settling_twice_counts_once() -> None:
    it = account()
    held = it.reserve(Decimal("0.5"))
    it.settle(held, [charge("0.2")])
    it.settle(held, [charge("0.2")])
    assert it.remaining == Decimal("0.8")


def test_charges_of_before_a_resume_are_spent_already() -> None:
    it = account("1", [charge("0.3"), charge(None, held="0.2")])
    assert it.remaining == Decimal("0.5")


def test_without_a_limit_everything_may_be_reserved_and_nothing_remains_to_tell() -> None:
    it = account(None)
    it.reserve(Decimal(10**9))
    assert it.remaining is None


class Interleavings(RuleBasedStateMachine):
    """Any order of reserving and settling by any number of calls."""

    LIMIT = Decimal(10)
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.account = RequestAccount(self.LIMIT)
        self.spent = Decimal(0)
        self.reserved: dict[Reservation, Decimal] = {}
        self.settled: list[Reservation] = []

    @rule(target=held, amount=USD)
    def reserve(self, amount: Decimal) -> Reservation | None:
        fits = self.spent + sum(self.reserved.values(), Decimal(0)) + amount <= self.LIMIT
        try:
            reservation = self.account.reserve(amount)
        except BudgetExceededError:
            assert not fits
            return None
        assert fits
        self.reserved[reservation] = amount
        return reservation

    @rule(reservation=consumes(held), share=st.decimals(0, 1, places=3), known=st.booleans())
    def settle(self, reservation: Reservation | None, share: Decimal, known: bool) -> None:
        if reservation is None:
            return
        amount = self.reserved.pop(reservation)
        cost = amount * share
        one = charge(cost) if known else charge(None, held=amount)
        self.account.settle(reservation, [one])
        self.settled.append(reservation)
        self.spent += cost if known else amount

    @rule()
    def settle_the_last_again(self) -> None:
        if self.settled:
            self.account.settle(self.settled[-1], [charge("5")])

    @invariant()
    def spent_and_reserved_never_exceed_the_limit(self) -> None:
        assert self.account.remaining is not None
        assert self.account.remaining >= 0

    @invariant()
    def what_remains_is_what_the_books_say(self) -> None:
        out = self.spent + sum(self.reserved.values(), Decimal(0))
        assert self.account.remaining == self.LIMIT - out


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_real_threads_never_spend_or_reserve_more_than_the_limit() -> None:
    threads, rounds = 32, 200
    it = account("3")
    start = threading.Barrier(threads)
    spent: list[Decimal] = []
    below_zero: list[Decimal] = []
    refused: list[int] = []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        mine, refusals = Decimal(0), 0
        start.wait()
        for _ in range(rounds):
            amount = Decimal(draw.randint(1, 2000)) / 10_000
            try:
                held = it.reserve(amount)
            except BudgetExceededError:
                refusals += 1
                continue
            left = it.remaining
            if left is None or left < 0:
                below_zero.append(amount)
            cost = amount * Decimal(draw.randint(0, 10)) / 100
            it.settle(held, [charge(cost)])
            mine += cost
        spent.append(mine)
        refused.append(refusals)

    running = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert below_zero == []
    total = sum(spent, Decimal(0))
    assert total <= 3
    assert it.remaining == 3 - total
    assert sum(refused) > 0  # the limit was really met


# --- totals --------------------------------------------------------------------------------


def test_router_and_workers_are_summed_apart_and_together() -> None:
    sums = totals([charge("0.1", kind="router"), charge("0.2"), charge("0.3")])
    assert (sums.router, sums.worker, sums.total) == (
        Decimal("0.1"),
        Decimal("0.5"),
        Decimal("0.6"),
    )


def test_nothing_charged_costs_nothing() -> None:
    sums = totals([])
    assert (sums.total, sums.known) == (0, 0)


def test_one_unknown_worker_makes_workers_and_total_unknown_but_not_the_router() -> None:
    sums = totals([charge("0.1", kind="router"), charge(None, held="9"), charge("0.2")])
    assert (sums.router, sums.worker, sums.total) == (Decimal("0.1"), None, None)


def test_an_unknown_part_stays_unknown_whatever_comes_after() -> None:
    assert totals([charge(None), charge("0.2")]).worker is None


def test_the_known_part_holds_no_worst_case() -> None:
    assert totals([charge("0.1"), charge(None, held="9")]).known == Decimal("0.1")


def test_what_was_probably_paid_is_what_is_known_and_the_estimates_of_the_rest() -> None:
    lost = replace(charge(None, held="9"), estimate_usd=Decimal("0.03"))
    assert totals([charge("0.1"), lost, charge(None)]).estimated == Decimal("0.13")


@given(st.lists(st.tuples(st.sampled_from(["router", "worker"]), st.none() | USD), max_size=20))
def test_totals_are_none_exactly_where_a_part_is_unknown(
    parts: list[tuple[str, Decimal | None]],
) -> None:
    sums = totals([charge(cost, kind=kind) for kind, cost in parts])
    costs = [cost for _, cost in parts]
    assert sums.known == sum((cost for cost in costs if cost is not None), Decimal(0))
    assert (sums.total is None) == (None in costs)
    if sums.total is not None:
        assert sums.total == sums.known
    for name in ("router", "worker"):
        assert (getattr(sums, name) is None) == any(k == name and c is None for k, c in parts)


@given(USD | st.none(), USD | st.none())
def test_a_charge_keeps_its_amounts_through_json(
    cost: Decimal | None, held: Decimal | None
) -> None:
    one = charge(cost, held=held)
    assert Charge.from_dict(one.to_dict()) == one
    assert "E" not in str(one.to_dict()["cost_usd"])
