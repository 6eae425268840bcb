"""Who asks, how often and for how much: keys at work."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from xrouter_lg.calls.failures import describe
from xrouter_lg.routing.spending import LIMITS_KEY, Spending
from xrouter_lg.serve.access.keys import ApiKey, KeyStore, find_key
from xrouter_lg.serve.api_errors import ApiError

logger = logging.getLogger(__name__)

_REFRESH_S = 5.0


class Caller:
    """One key with its tokens of rate."""

    def __init__(self, key: ApiKey, now: float) -> None:
        self.key = key
        self._tokens = float(key.requests_per_minute or 0)
        self._filled_at = now

    def take(self, now: float) -> dict[str, str]:
        """Count a request; returns headers that tell the rate.

        Raises:
            ApiError: 429: too many a minute.
        """
        rate = self.key.requests_per_minute
        if rate is None:
            return {}
        filled = (now - self._filled_at) * rate / 60
        self._tokens, self._filled_at = min(float(rate), self._tokens + filled), now
        if self._tokens < 1:
            wait = (1 - self._tokens) * 60 / rate
            raise ApiError(
                429,
                f"this key may ask {rate} times a minute; wait {wait:.1f} s",
                code="rate_limit_exceeded",
                headers={
                    "retry-after": str(int(wait) + 1),
                    "x-ratelimit-limit-requests": str(rate),
                    "x-ratelimit-remaining-requests": "0",
                },
            )
        self._tokens -= 1
        return {
            "x-ratelimit-limit-requests": str(rate),
            "x-ratelimit-remaining-requests": str(int(self._tokens)),
        }


class Callers:
    """Keys of a store, followed as they change. What they spend is counted in the same database,
    for all servers together; how often they ask, by each server for itself."""

    def __init__(self, store: KeyStore, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._keys: dict[str, ApiKey] = {}
        self._callers: dict[str, Caller] = {}
        self.reload()

    def admit(self, authorization: str | None) -> Caller:
        """The caller of an ``Authorization`` header.

        Raises:
            ApiError: 401 without one of our keys.
        """
        scheme, _, text = (authorization or "").partition(" ")
        key = find_key(self._keys, text.strip()) if scheme.lower() == "bearer" else None
        if key is None:
            raise ApiError(
                401,
                "no valid API key: give one as 'Authorization: Bearer xr-...'",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )
        return self._callers[key.id]

    def begin(self, caller: Caller) -> dict[str, str]:
        """Count a request that will cost something; returns headers that tell the rate.

        Raises:
            ApiError: 429: too many a minute.
        """
        return caller.take(self._clock())

    def options(self, caller: Caller) -> dict[str, Any]:
        """What a request is asked with: whose it is, and the key's budget."""
        key, limit = caller.key, caller.key.limit
        own = {} if limit is None else {LIMITS_KEY: (limit,)}
        return {"tenant": key.name, "key_id": key.id, **own}

    def spent(self, caller: Caller, usd: Decimal, spending: Spending | None) -> None:
        """Count what a request of a key has cost, where no limit has counted it: for its list."""
        place = caller.key.place(self._clock())
        caps = () if spending is None else spending.caps(self.options(caller))
        if all(cap.place != place for cap in caps):
            self._store.spend.add([place], usd)

    def reload(self) -> None:
        """Follow the store: keys that were added, changed or revoked."""
        keys, now = self._store.load(), self._clock()
        for key in keys.values():
            known = self._callers.get(key.id)
            if known is None:
                self._callers[key.id] = Caller(key, now)
            else:
                known.key = key
        self._keys = keys

    async def keep(self) -> None:
        """Follow the store for as long as the server runs."""
        try:
            while True:
                await asyncio.sleep(_REFRESH_S)
                try:
                    await asyncio.to_thread(self.reload)
                except Exception as error:
                    logger.warning("keys can't be read again: %s", describe(error))
        finally:
            self._store.close()
