"""Who asks, how often and for how much: keys at work."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from decimal import Decimal

from xrouter_lg.calls.failures import describe
from xrouter_lg.calls.ledger import RequestAccount
from xrouter_lg.serve.access.keys import ApiKey, KeyStore, find_key
from xrouter_lg.serve.api_errors import ApiError, out_of_budget

logger = logging.getLogger(__name__)

_Spending = tuple[Decimal, int]
"""USD and requests."""
_REFRESH_S = 5.0
_SAVE_S = 0.5


class Caller:
    """One key with its account of the current period and its tokens of rate."""

    def __init__(self, key: ApiKey, spent: Decimal, window: str, now: float) -> None:
        self.key, self.window = key, window
        self.account = self._account(spent)
        self._tokens = float(key.requests_per_minute or 0)
        self._filled_at = now

    def _account(self, spent: Decimal) -> RequestAccount | None:
        budget = self.key.budget_usd
        return None if budget is None else RequestAccount(budget - spent)

    def follow(self, key: ApiKey) -> None:
        """Go on by the key as it is stored now."""
        if key.budget_usd != self.key.budget_usd and self.account and self.key.budget_usd:
            left = self.account.remaining or Decimal(0)
            spent = self.key.budget_usd - left
            self.key = key
            self.account = self._account(spent)
        self.key = key

    def turn_page(self, window: str) -> None:
        """A new period begins with the whole budget."""
        if window != self.window:
            self.window, self.account = window, self._account(Decimal(0))

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
    """Keys of a store, followed as they change; spending is saved as it happens. One server
    process keeps a key's budget: several beside each other each know what they have spent, and
    what was saved when they began."""

    def __init__(self, store: KeyStore, clock: Callable[[], float] = time.time) -> None:
        self._store, self._clock = store, clock
        self._keys: dict[str, ApiKey] = {}
        self._callers: dict[str, Caller] = {}
        self._unsaved: dict[tuple[str, str], _Spending] = {}
        self._lock = threading.Lock()
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
        caller = self._callers[key.id]
        caller.turn_page(key.window(self._clock()))
        return caller

    def begin(self, caller: Caller) -> dict[str, str]:
        """Count a request that will cost something; returns headers that tell the rate.

        Raises:
            ApiError: 429: too many a minute, or the budget is used up.
        """
        headers = caller.take(self._clock())
        account = caller.account
        if account is not None and (account.remaining or 0) <= 0:
            raise out_of_budget()
        return headers

    def spent(self, caller: Caller, usd: Decimal) -> None:
        """Note what a request has cost, to be saved."""
        self._note((caller.key.id, caller.window), usd, 1)

    def _note(self, place: tuple[str, str], usd: Decimal, requests: int) -> None:
        with self._lock:
            before = self._unsaved.get(place, (Decimal(0), 0))
            self._unsaved[place] = before[0] + usd, before[1] + requests

    def save(self) -> None:
        """Write what is not saved yet; what can't be written is kept."""
        with self._lock:
            entries, self._unsaved = self._unsaved, {}
        if not entries:
            return
        try:
            self._store.add_spending(entries)
        except Exception as error:
            logger.warning("spending can't be saved yet: %s", describe(error))
            for place, (usd, requests) in entries.items():
                self._note(place, usd, requests)

    def reload(self) -> None:
        """Follow the store: keys that were added, changed or revoked."""
        keys, now = self._store.load(), self._clock()
        for key in keys.values():
            known = self._callers.get(key.id)
            if known is None:
                window = key.window(now)
                spent = self._store.spent(key, window)
                self._callers[key.id] = Caller(key, spent, window, now)
            else:
                known.follow(key)
        self._keys = keys

    async def keep(self) -> None:
        """Save and follow for as long as the server runs."""
        reloaded = time.monotonic()
        try:
            while True:
                await asyncio.sleep(_SAVE_S)
                await asyncio.to_thread(self.save)
                if time.monotonic() - reloaded >= _REFRESH_S:
                    reloaded = time.monotonic()
                    try:
                        await asyncio.to_thread(self.reload)
                    except Exception as error:
                        logger.warning("keys can't be read again: %s", describe(error))
        finally:
            with contextlib.suppress(Exception):
                self.save()
            self._store.close()
