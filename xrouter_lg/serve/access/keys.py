"""API keys: hashed at rest, compared in constant time, with a budget and a rate each."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any, cast

from sqlalchemy import (
    Column,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    select,
)
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from xrouter_lg.calls.money import parse_usd
from xrouter_lg.calls.spend.limits import PERIODS, Period, Place, SpendLimit
from xrouter_lg.calls.spend.store import SpendStore
from xrouter_lg.errors import ConfigurationError, StoreError
from xrouter_lg.tracing.store.connect import (
    create_once,
    database_engine,
    resolve_url,
    shown,
    store_errors,
)

_NOBODY = hashlib.sha256(b"nobody has this key").digest()

_metadata = MetaData()
_keys = Table(
    "xrouter_keys",
    _metadata,
    Column("id", String(16), primary_key=True),
    Column("name", String(200), nullable=False, unique=True),
    Column("digest", String(64), nullable=False),
    Column("budget_usd", String(40)),
    Column("period", String(8), nullable=False),
    Column("requests_per_minute", Integer),
    Column("created_at", Float, nullable=False),
    Column("revoked_at", Float),
)
_LOCK_NUMBER = 7_203_116


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, without what opens anything."""

    id: str
    name: str
    digest: bytes
    budget_usd: Decimal | None = None
    period: str = "month"
    requests_per_minute: int | None = None
    revoked: bool = False

    @property
    def limit(self) -> SpendLimit | None:
        """The budget as a limit (UTC); None without one."""
        return None if self.budget_usd is None else self._limit(self.budget_usd)

    def place(self, now: float) -> Place:
        """Where its spending is counted at a moment, with a budget or without."""
        return self._limit(Decimal(1)).place(self.id, now)

    def _limit(self, usd: Decimal) -> SpendLimit:
        return SpendLimit(usd, per="key", period=cast("Period", self.period))


def find_key(keys: Mapping[str, ApiKey], given: str) -> ApiKey | None:
    """The key that a client has shown; None for none of ours. The part before the secret says
    which one it would be; the secret is compared in the same time whatever it is."""
    _, _, rest = given.partition("-")
    key_id, _, _ = rest.partition("-")
    key = keys.get(key_id)
    expected = _NOBODY if key is None else key.digest
    fits = hmac.compare_digest(_digest(given), expected)
    return key if fits and key is not None and not key.revoked else None


def _digest(text: str) -> bytes:
    # A secret of 256 random bits can't be guessed, so that a fast hash keeps it.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


class KeyStore:
    """Keys and what they have spent, in SQLite or Postgres.

    Raises:
        StoreError: the database can't be opened.
    """

    def __init__(self, target: str | os.PathLike[str]) -> None:
        self._target, url = target, resolve_url(target)
        self.shown = shown(url)
        self._engine = database_engine(url)
        with store_errors(url, "open", "key store"):
            create_once(self._engine, _metadata, _LOCK_NUMBER)

    @cached_property
    def spend(self) -> SpendStore:
        """Where the keys' spending is counted: in the same database, and so for every server
        that has these keys."""
        return SpendStore(self._target)

    def add(
        self,
        name: str,
        *,
        budget_usd: Any = None,
        period: str = "month",
        requests_per_minute: int | None = None,
    ) -> str:
        """A key of that name; returns its text, which is kept nowhere.

        Raises:
            ConfigurationError: the name is taken or empty, or a limit makes no sense.
        """
        if not name or len(name) > 200:
            raise ConfigurationError(f"a key's name is {name!r}; give 1 to 200 characters")
        if period not in PERIODS:
            raise ConfigurationError(f"period is {period!r}; it must be {', '.join(PERIODS)}")
        if requests_per_minute is not None and requests_per_minute < 1:
            raise ConfigurationError(
                f"requests per minute are {requests_per_minute!r}; it must be 1 or more"
            )
        budget = None if budget_usd is None else parse_usd(budget_usd, "the key's budget")
        if budget is not None:
            SpendLimit(budget)  # which may be too much to count
        key_id = secrets.token_hex(6)
        text = f"xr-{key_id}-{secrets.token_urlsafe(32)}"
        row = {
            "id": key_id,
            "name": name,
            "digest": _digest(text).hex(),
            "budget_usd": None if budget is None else format(budget, "f"),
            "period": period,
            "requests_per_minute": requests_per_minute,
            "created_at": time.time(),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(_keys.insert().values(row))
        except IntegrityError:
            raise ConfigurationError(
                f"there is a key named {name!r} in {self.shown!r} already; revoke it, or choose "
                "another name"
            ) from None
        return text

    def revoke(self, name: str) -> None:
        """Let nobody in by that key any more.

        Raises:
            ConfigurationError: no such key.
        """
        with self._engine.begin() as connection:
            done = connection.execute(
                _keys.update().where(_keys.c.name == name).values(revoked_at=time.time())
            )
        if done.rowcount == 0:
            raise ConfigurationError(
                f"there is no key named {name!r} in {self.shown!r}; `xrouter keys list` shows what "
                "there is"
            )

    def load(self) -> dict[str, ApiKey]:
        """Every key by its id.

        Raises:
            StoreError: the database can't be read.
        """
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(select(_keys)).mappings().all()
        except SQLAlchemyError as error:
            raise StoreError(f"the key store {self.shown!r} can't be read: {error}") from error
        return {
            row["id"]: ApiKey(
                id=row["id"],
                name=row["name"],
                digest=bytes.fromhex(row["digest"]),
                budget_usd=None if row["budget_usd"] is None else Decimal(row["budget_usd"]),
                period=row["period"],
                requests_per_minute=row["requests_per_minute"],
                revoked=row["revoked_at"] is not None,
            )
            for row in rows
        }

    def spent(self, key: ApiKey, now: float | None = None) -> Decimal:
        """USD that a key has spent in the period of ``now`` (Unix time)."""
        return self.spend.spent(key.place(time.time() if now is None else now))

    def close(self) -> None:
        """Write what is spent, and close the connections."""
        if "spend" in vars(self):
            self.spend.close()
        self._engine.dispose()
