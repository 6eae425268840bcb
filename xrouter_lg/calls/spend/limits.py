"""Limits on what many requests may cost together, and whom and when they count."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple, get_args
from zoneinfo import ZoneInfo

from xrouter_lg.calls.money import parse_usd
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.json_text import shown

Per = Literal["all", "thread", "tenant", "user", "key"]
Period = Literal["day", "month", "total"]
PERIODS: tuple[str, ...] = get_args(Period)

_PER: tuple[str, ...] = get_args(Per)
_NANO = Decimal(10**9)
_MOST_USD = Decimal(10**9)
"""A counter of billionths in 64 bits goes to nine times that."""
_LONGEST_NAME = 120


class Place(NamedTuple):
    """One counter: what somebody has spent in a period."""

    per: str
    who: str
    period: str


@dataclass(frozen=True)
class SpendLimit:
    """At most ``usd`` for each thread, tenant, user or key, or for ``all`` together, in each
    ``day`` or ``month`` of ``timezone`` (an IANA name), or in ``total``.

    A day is the calendar's: on the two days a year on which clocks are moved it has 23 or 25 hours.
    A call counts in the period in which it began. Limits that differ in USD alone count the same
    spending. Requests without a tenant, user or key share one limit; one without a thread is a
    thread of its own.

    Raises:
        ConfigurationError: a value that makes no sense, or a time zone that is not known here.
    """

    usd: Decimal | float | str
    per: Per = "all"
    period: Period = "total"
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        usd = parse_usd(self.usd, "SpendLimit.usd")
        if usd > _MOST_USD:
            raise ConfigurationError(
                f"SpendLimit.usd is {usd:f}; at most {_MOST_USD:f} can be counted"
            )
        object.__setattr__(self, "usd", usd)
        for name, allowed in (("per", _PER), ("period", PERIODS)):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(
                    f"SpendLimit.{name} is {shown(getattr(self, name))}; it must be "
                    f"{', '.join(map(repr, allowed[:-1]))} or {allowed[-1]!r}"
                )
        if not isinstance(self.timezone, str):
            raise ConfigurationError(
                f"SpendLimit.timezone is {shown(self.timezone)}; give an IANA name such as "
                "'Europe/Berlin'"
            )
        _zone(self.timezone)

    @classmethod
    def from_dict(cls, data: Any, where: str) -> SpendLimit:
        """A limit from a file's mapping.

        Raises:
            ConfigurationError: a missing or an unknown key, or a bad value.
        """
        known = [field.name for field in fields(cls)]
        if not isinstance(data, Mapping) or "usd" not in data or not set(data) <= set(known):
            raise ConfigurationError(
                f"{where} is {shown(data)}; it must be a mapping with usd, and may have "
                f"{', '.join(known[1:])}"
            )
        try:
            return cls(**data)
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: {error}") from None

    @cached_property
    def nano(self) -> int:
        """The limit in billionths of a USD, rounded down."""
        assert isinstance(self.usd, Decimal)
        return int(self.usd * _NANO)

    def place(self, who: str, now: float) -> Place:
        """The counter of somebody's spending at a moment (Unix time)."""
        return Place(self.per, _short(who), period_of(self.period, self.timezone, now))

    def __str__(self) -> str:
        whose = "in all" if self.per == "all" else f"per {self.per}"
        if self.period == "total":
            return f"${self.usd:f} {whose}"
        return f"${self.usd:f} {whose} and {self.period} ({self.timezone})"


def period_of(period: str, timezone: str, now: float) -> str:
    """The name of the period that a moment lies in, and so of its counters."""
    if period == "total":
        return "total"
    form = "%Y-%m-%d" if period == "day" else "%Y-%m"
    return f"{datetime.fromtimestamp(now, _zone(timezone)).strftime(form)} {timezone}"


def nano_of(usd: Decimal) -> int:
    """USD in billionths, rounded up: what is too small to be counted is not free."""
    if usd > _MOST_USD:  # a provider's own figure may be anything
        usd = _MOST_USD
    return int((usd * _NANO).to_integral_value(ROUND_CEILING))


def usd_of(nano: int) -> Decimal:
    """Billionths as USD."""
    return Decimal(nano) / _NANO


def _short(who: str) -> str:
    """A name that every database takes as a key, and that no two different ones share."""
    if len(who) <= _LONGEST_NAME and who.isprintable() and not who.startswith("sha256:"):
        return who
    return "sha256:" + hashlib.sha256(who.encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError) as error:
        raise ConfigurationError(
            f"SpendLimit.timezone is {shown(name)}, which this machine does not know. Give an IANA "
            "name such as 'Europe/Berlin'; where the system has none at all: pip install tzdata"
        ) from error
