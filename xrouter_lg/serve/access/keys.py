"""API keys: hashed at rest, compared in constant time, with a budget and a rate each."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal, get_args

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from xrouter_lg.calls.money import parse_usd
from xrouter_lg.errors import ConfigurationError, StoreError
from xrouter_lg.tracing.store.connect import resolve_url, shown

Period = Literal["day", "month", "total"]
PERIODS: tuple[str, ...] = get_args(Period)

_NANO = Decimal(10**9)
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
_spent = Table(
    "xrouter_key_spend",
    _metadata,
    Column("key_id", String(16), primary_key=True),
    Column("window", String(10), primary_key=True),
    Column("nano_usd", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
)


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

    def window(self, now: float) -> str:
        """The budget's current period (UTC)."""
        if self.period == "total":
            return "total"
        form = "%Y-%m-%d" if self.period == "day" else "%Y-%m"
        return datetime.fromtimestamp(now, UTC).strftime(form)


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
        url = resolve_url(target)
        self.shown = shown(url)
        self._engine: Engine = create_engine(url)
        try:
            _metadata.create_all(self._engine)
        except SQLAlchemyError as error:
            raise StoreError(f"the key store {self.shown!r} can't be opened: {error}") from error

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

    def spent(self, key: ApiKey, window: str) -> Decimal:
        """USD that a key has spent in a period."""
        query = select(_spent.c.nano_usd).where(
            _spent.c.key_id == key.id, _spent.c.window == window
        )
        with self._engine.connect() as connection:
            found = connection.execute(query).scalar()
        return Decimal(found or 0) / _NANO

    def add_spending(self, entries: Mapping[tuple[str, str], tuple[Decimal, int]]) -> None:
        """Add USD and requests, by key id and period."""
        insert = sqlite.insert if self._engine.dialect.name == "sqlite" else postgresql.insert
        with self._engine.begin() as connection:
            for (key_id, window), (usd, requests) in entries.items():
                # Rounded up: a budget is never passed by what is too small to be counted.
                nano = int(-(-(usd * _NANO) // 1))
                row = insert(_spent).values(
                    key_id=key_id, window=window, nano_usd=nano, requests=requests
                )
                connection.execute(
                    row.on_conflict_do_update(
                        index_elements=["key_id", "window"],
                        set_={
                            "nano_usd": func.coalesce(_spent.c.nano_usd, 0) + nano,
                            "requests": func.coalesce(_spent.c.requests, 0) + requests,
                        },
                    )
                )

    def close(self) -> None:
        self._engine.dispose()
