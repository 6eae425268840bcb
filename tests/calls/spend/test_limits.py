"""Limits: what they may be, and which counter of which day they mean."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg import Budget
from xrouter_lg.calls.spend.limits import SpendLimit, nano_of, period_of, usd_of
from xrouter_lg.errors import ConfigurationError


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"usd": 0}, "SpendLimit.usd is 0"),
        ({"usd": -1}, "SpendLimit.usd is -1"),
        ({"usd": "much"}, "SpendLimit.usd is 'much'"),
        ({"usd": float("nan")}, "SpendLimit.usd is nan"),
        ({"usd": 10**10}, "at most 1000000000 can be counted"),
        ({"usd": 1, "per": "customer"}, "'customer'; it must be 'all', 'thread'"),
        ({"usd": 1, "per": ["thread"]}, "SpendLimit.per is"),
        ({"usd": 1, "period": "week"}, "'week'; it must be 'day', 'month' or 'total'"),
        ({"usd": 1, "timezone": "Mars/Olympus"}, "'Mars/Olympus', which this machine does not"),
        ({"usd": 1, "timezone": "../../etc/passwd"}, "does not know"),
        ({"usd": 1, "timezone": 2}, "give an IANA name"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_limit_without_sense_is_refused(bad: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        SpendLimit(**bad)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ([1], "budget is [1]"),
        ({"per_day_usd": 1}, "it must be a mapping of per_request_usd"),
        ({"limits": 5}, "Budget.limits is 5"),
        ({"limits": [{"per": "thread"}]}, "Budget.limits[0] is"),
        ({"limits": [{"usd": 1, "pro": "thread"}]}, "may have per, period, timezone"),
        ({"limits": [{"usd": 1}, {"usd": 0}]}, "Budget.limits[1]: SpendLimit.usd is 0"),
        ({"when_down": "shrug"}, "Budget.when_down is 'shrug'"),
        ({"unpriced_usd": -2}, "Budget.unpriced_usd is -2"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_budget_of_a_file_names_its_place(bad: Any, named: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Budget.from_dict(bad)
    assert named in str(caught.value)


def test_a_day_begins_at_midnight_of_its_time_zone() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    midnight = datetime(2026, 11, 30, tzinfo=berlin).timestamp()
    assert period_of("day", "Europe/Berlin", midnight - 0.001) == "2026-11-29 Europe/Berlin"
    assert period_of("day", "Europe/Berlin", midnight) == "2026-11-30 Europe/Berlin"
    assert period_of("day", "UTC", midnight) == "2026-11-29 UTC"
    assert period_of("day", "Asia/Kolkata", midnight) == "2026-11-30 Asia/Kolkata"
    assert period_of("month", "Pacific/Kiritimati", midnight) == "2026-11 Pacific/Kiritimati"


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_a_day_on_which_clocks_are_moved_is_one_day(day: str, hours: int) -> None:
    start = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("Europe/Berlin"))
    first = start.astimezone(UTC)
    quarter = timedelta(minutes=15)
    moments = [(first + n * quarter).timestamp() for n in range(-4, 4 * 27)]
    inside = [m for m in moments if period_of("day", "Europe/Berlin", m).startswith(day)]
    assert len(inside) == hours * 4
    assert inside[0] == first.timestamp()


@given(st.decimals(min_value=0, max_value=10**6, allow_nan=False, places=15))
def test_what_is_counted_is_never_less_than_what_was_paid(usd: Decimal) -> None:
    assert usd <= usd_of(nano_of(usd)) < usd + Decimal("1e-9")


@given(st.text(), st.text())
def test_two_names_never_share_a_counter(one: str, other: str) -> None:
    limit = SpendLimit(1, per="tenant")
    places = {limit.place(who, 0.0) for who in (one, other)}
    assert len(places) == len({one, other})
    assert all(len(place.who) <= 128 and place.who.isprintable() for place in places)


def test_a_name_can_not_be_made_to_be_anothers() -> None:
    limit = SpendLimit(1, per="tenant")
    hashed = limit.place("a" * 500, 0.0).who
    assert limit.place(hashed, 0.0).who != hashed
