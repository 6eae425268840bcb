"""``SpendStore``: what is spent and set aside, shared by every process that opens it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from decimal import Decimal
from functools import partial
from typing import Any, Literal

from sqlalchemy import URL, Engine, select

from xrouter_lg.calls.failures import describe
from xrouter_lg.calls.spend.books import Add, Cap, Hold, Left, Look, Settle, Take
from xrouter_lg.calls.spend.clerk import Clerk
from xrouter_lg.calls.spend.limits import Place, nano_of, usd_of
from xrouter_lg.calls.spend.tables import LOCK_NUMBER, counters, metadata
from xrouter_lg.errors import BudgetExceededError, BudgetStoreError, ConfigurationError
from xrouter_lg.tracing.store.connect import (
    create_once,
    database_engine,
    file_of,
    resolve_url,
    shown,
    store_errors,
)

logger = logging.getLogger(__name__)

DEFAULT_SPEND = "xrouter_spend.db"
"""Where spending is counted unless a path or URL says otherwise."""


class SpendStore:
    """Counters of spending in SQLite (a path) or Postgres (a URL). Every process that opens the
    same one shares them: a sum is set aside before a call and settled after it, each in one
    transaction, so that no two calls use the same money.

    What a process has set aside is its own for ``lease_s`` seconds from when it was last heard of,
    which it says by itself three times as often. Of one that was killed it lapses then:
    ``lapsed="release"`` gives the sum back, ``"count"`` counts it as spent. A call that is settled
    later than that is still counted as what it has cost.

    ``timeout_s``: how long a request waits for the database before that counts as down.

    Raises:
        ConfigurationError: an option that makes no sense.
        StoreError: the database can't be opened.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] = DEFAULT_SPEND,
        *,
        lease_s: float = 60.0,
        lapsed: Literal["release", "count"] = "release",
        timeout_s: float = 10.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, value in (("lease_s", lease_s), ("timeout_s", timeout_s)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigurationError(f"{name} is {value!r}; it must be seconds above 0")
        if lapsed not in ("release", "count"):
            raise ConfigurationError(f"lapsed is {lapsed!r}; it must be 'release' or 'count'")
        self.url = resolve_url(target)
        self.clock, self._timeout_s = clock, timeout_s
        self._engine = database_engine(self.url, busy_timeout_s=timeout_s / 2)
        with store_errors(self.url, "open", "spend store"):
            create_once(self._engine, metadata, LOCK_NUMBER)
        self._clerk = Clerk(
            self._engine,
            lease_s=lease_s,
            count_lapsed=lapsed == "count",
            clock=clock,
            prepare=_KeptFile(self.url, self._engine).look,
        )
        # At exit too: what is paid shall be written.
        self._end = weakref.finalize(self, _end, self._clerk, self._engine)

    @property
    def engine(self) -> Engine:
        """The database, for what else replicas share."""
        return self._engine

    @property
    def shown(self) -> str:
        """The path or URL, without a password."""
        return shown(self.url)

    @property
    def late(self) -> int:
        """Calls of this process that were settled after their hold had lapsed."""
        return self._clerk.late

    @property
    def lapsed(self) -> int:
        """Holds, whoever's, that this process has found without a holder."""
        return self._clerk.lapsed

    @property
    def waiting(self) -> int:
        """Entries of this process that the database has not taken yet."""
        return self._clerk.waiting

    async def left(self, caps: Iterable[Cap]) -> Left:
        """What is neither spent nor set aside of the tightest limit.

        Raises:
            BudgetStoreError: the database does not answer.
        """
        found: Left = await self._answer(self._clerk.ask(Look(tuple(caps))))
        return found

    async def hold(self, caps: Iterable[Cap], usd: Decimal) -> Hold:
        """Set a sum aside in every counter.

        Raises:
            BudgetExceededError: one of the limits has no room for it. Nothing is then set aside.
            BudgetStoreError: the database does not answer.
        """
        caps = tuple(caps)
        places = tuple(dict.fromkeys(cap.place for cap in caps))
        hold = Hold(uuid.uuid4().hex, nano_of(usd), places)
        answer = self._clerk.ask(Take(hold, caps))
        try:
            await self._answer(answer)
        except (BudgetStoreError, asyncio.CancelledError):
            # Nobody waits any more: what may yet be set aside is given back.
            answer.add_done_callback(partial(_give_back, self._clerk, hold))
            raise
        return hold

    def settle(self, hold: Hold, usd: Decimal) -> None:
        """Put what a call has cost in the place of its hold. Never waits; what the database can't
        take now is kept and tried again. Settling twice counts once."""
        self._clerk.tell(Settle(hold, nano_of(usd)))

    def add(self, places: Iterable[Place], usd: Decimal) -> None:
        """Count what was spent without a hold. Never waits."""
        if usd:
            self._clerk.tell(Add(tuple(dict.fromkeys(places)), nano_of(usd)))

    def spent(self, place: Place) -> Decimal:
        """What is spent in a counter (USD), without what is set aside.

        Raises:
            StoreError: the database can't be read.
        """
        c = counters.c
        query = select(c.spent).where(c.per == place.per, c.who == place.who)
        with store_errors(self.url, "read", "spend store"), self._engine.connect() as connection:
            return usd_of(connection.scalar(query.where(c.period == place.period)) or 0)

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until what was settled is written; False where it is not in time."""
        return self._clerk.flush(timeout_s)

    def close(self) -> None:
        """Write what waits, and close the connections."""
        self._end()

    async def _answer(self, answer: Future[Any]) -> Any:
        waiting = asyncio.wrap_future(answer)
        why: BaseException | None = None
        try:
            await asyncio.wait({waiting}, timeout=self._timeout_s)
            # Of an event loop that was busy for so long it is not the database's fault.
            if answer.done():
                return await waiting
        except BudgetExceededError:
            raise
        except Exception as error:
            why = error
        finally:
            waiting.cancel()
        told = "it did not answer in time" if why is None else describe(why)
        raise BudgetStoreError(
            f"the spend store {self.shown!r} can't be asked: {told}. No call is made that its "
            "limits may not cover; see that it is up, or set Budget(when_down='allow')"
        ) from why

    def __repr__(self) -> str:
        return f"SpendStore({self.shown!r})"


class _KeptFile:
    """The file of a SQLite store. Where it is deleted or replaced under way, an open connection
    would count on in nothing, apart from all other processes."""

    def __init__(self, url: URL, engine: Engine) -> None:
        self._url, self._engine, self._file = url, engine, file_of(url)

    def look(self) -> None:
        """Open it anew where it is another one.

        Raises:
            DBAPIError: there can be none where it was.
        """
        if file_of(self._url) == self._file:
            return
        self._engine.dispose()
        create_once(self._engine, metadata, LOCK_NUMBER)
        self._file = file_of(self._url)
        logger.warning(
            "the spend store %r was deleted or replaced under way; it is opened anew, and counts "
            "from what is in it now",
            shown(self._url),
        )


def _give_back(clerk: Clerk, hold: Hold, answer: Future[Any]) -> None:
    if not answer.cancelled() and answer.exception() is None:
        clerk.tell(Settle(hold, 0))


def _end(clerk: Clerk, engine: Engine) -> None:
    clerk.close(5.0)
    engine.dispose()
