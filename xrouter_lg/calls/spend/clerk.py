"""The one thread of a process that writes to the spend store: whatever waits goes into one
transaction, so that a thousand requests at once cost a few."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from xrouter_lg.calls.failures import describe
from xrouter_lg.calls.spend.books import (
    Add,
    Entry,
    Look,
    Outcome,
    Settle,
    Take,
    Terms,
    read,
    renew,
    write,
)
from xrouter_lg.tracing.store.connect import write_transaction

logger = logging.getLogger(__name__)

_BATCH = 500
_TRIES = 4
_AGAIN_S = 0.5
"""Pause before settlements that could not be written are tried anew."""
_STOP: Any = None

Item = tuple[Entry, "Future[Any] | None"]


class Clerk:
    """Takes entries, and answers by futures. Entries without one are written sooner or later: what
    is paid is kept until the database takes it."""

    def __init__(
        self,
        engine: Engine,
        *,
        lease_s: float,
        count_lapsed: bool,
        clock: Callable[[], float],
        prepare: Callable[[], object] = lambda: None,
    ) -> None:
        """``prepare`` is called before the database is asked for anything."""
        self._engine, self._lease_s, self._count_lapsed = engine, lease_s, count_lapsed
        self._clock, self._prepare = clock, prepare
        self.late = self.lapsed = 0
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._pid, self._holder = os.getpid(), uuid.uuid4().hex
        self._queue: queue.SimpleQueue[Item] = queue.SimpleQueue()
        self._backlog: deque[Entry] = deque()
        self._lock = threading.Lock()
        self._idle = threading.Condition()
        self._waiting = 0
        self._thread: threading.Thread | None = None
        self._renewed_at = time.monotonic()
        self._stopped = False

    def ask(self, entry: Look | Take) -> Future[Any]:
        """A future of what the entry comes to."""
        answer: Future[Any] = Future()
        self._put((entry, answer))
        return answer

    def tell(self, entry: Settle | Add) -> None:
        """Write an entry, whenever the database is there."""
        self._put((entry, None))

    @property
    def waiting(self) -> int:
        """Entries that are not written yet."""
        return self._waiting

    def flush(self, timeout_s: float) -> bool:
        """Wait until all that was told is written; False where it is not in time."""
        with self._idle:
            return self._idle.wait_for(lambda: self._waiting == 0, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Write what can be written, and end the thread. A later entry starts another."""
        thread = self._thread
        if thread is None or self._pid != os.getpid():
            return
        self.flush(timeout_s)
        self._stopped = True
        self._queue.put(_STOP)
        thread.join(timeout_s)

    def _put(self, item: Item) -> None:
        if self._pid != os.getpid():  # a forked child has no such thread, and holds nothing
            self._begin_anew()
        with self._lock:
            with self._idle:
                self._waiting += 1
            self._queue.put(item)
            if self._thread is None or not self._thread.is_alive():
                self._stopped = False
                name = "xrouter-spend"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    # --- the thread -----------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            items = self._next()
            try:
                self._handle(items)
                self._renew()
            except Exception:  # a thread that has died would answer nobody
                logger.exception("the spend store's thread goes on after an error")
                self._fail(items, RuntimeError("the spend store's thread had an error"))
            if self._stopped and self._queue.empty():
                return

    def _next(self) -> list[Item]:
        """What waits, or nothing where it is time to say that this holder is alive."""
        pause = _AGAIN_S if self._backlog else self._lease_s / 3
        items: list[Item] = []
        try:
            item = self._queue.get(timeout=pause)
            while item is not _STOP and len(items) < _BATCH:
                items.append(item)
                item = self._queue.get_nowait()
            if item is not _STOP:
                items.append(item)
        except queue.Empty:
            pass
        return items

    def _handle(self, items: list[Item]) -> None:
        wanted = [
            item for item in items if item[1] is None or item[1].set_running_or_notify_cancel()
        ]
        self._done(len(items) - len(wanted))
        late = [(entry, None) for entry in self._backlog]
        self._backlog.clear()
        everything: list[Item] = [*late, *wanted]
        if everything:
            self._commit(everything)

    def _commit(self, items: list[Item]) -> None:
        try:
            outcome = self._written([entry for entry, _ in items])
        except Exception as error:
            down = isinstance(error, OperationalError | InterfaceError)
            if len(items) > 1 and not down:  # one of them is at fault
                for item in items:
                    self._commit([item])
            else:
                self._fail(items, error)
            return
        self.late += outcome.late
        self.lapsed += outcome.lapsed
        for (_, answer), result in zip(items, outcome.results, strict=True):
            if answer is None:
                continue
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
        self._done(len(items))

    def _written(self, entries: Sequence[Entry]) -> Outcome:
        self._prepare()
        for attempt in range(_TRIES):
            terms = self._terms(again=attempt > 0)
            try:
                looks = [entry for entry in entries if isinstance(entry, Look)]
                if len(looks) == len(entries):
                    with self._engine.connect() as connection, connection.begin():
                        seen = read(connection, looks, terms.now)
                    if seen is not None:
                        return seen
                with write_transaction(self._engine) as connection:
                    return write(connection, entries, terms)
            except DBAPIError as error:
                # Two processes in each other's way (a deadlock), or a connection that was closed.
                code = getattr(error.orig, "sqlstate", None)
                passing = error.connection_invalidated or code in ("40P01", "40001")
                if not passing or attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _terms(self, *, again: bool = False) -> Terms:
        return Terms(self._clock(), self._holder, self._lease_s, self._count_lapsed, again)

    def _fail(self, items: list[Item], error: Exception) -> None:
        kept = 0
        for entry, answer in items:
            if answer is not None:
                if not answer.done():
                    answer.set_exception(error)
            elif isinstance(entry, Settle | Add):
                self._backlog.append(entry)
                kept += 1
        if kept:
            logger.warning("%d settlements can't be written yet: %s", kept, describe(error))
        self._done(len(items) - kept)

    def _done(self, count: int) -> None:
        with self._idle:
            self._waiting -= count
            self._idle.notify_all()

    def _renew(self) -> None:
        """Say that this holder is alive, and clear away those who are not."""
        if time.monotonic() - self._renewed_at < self._lease_s / 3:
            return
        self._renewed_at = time.monotonic()
        try:
            with write_transaction(self._engine) as connection:
                renew(connection, self._terms())
            with write_transaction(self._engine) as connection:
                self.lapsed += write(connection, (), self._terms()).lapsed
        except DBAPIError as error:
            logger.warning("the spend store can't be reached: %s", describe(error))
