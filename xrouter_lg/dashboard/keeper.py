"""Snapshots take a while: they are taken beside whoever looks, who sees the last one meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from xrouter_lg.calls.failures import describe
from xrouter_lg.errors import XRouterError

logger = logging.getLogger(__name__)

_REST = 10.0
"""A snapshot that took a second is followed by so many seconds without one."""


class SnapshotKeeper:
    """Takes one snapshot at a time, in a thread, when it is asked for one and the last is old and
    something has happened since. Nothing runs while nobody looks."""

    def __init__(
        self,
        take: Callable[[], dict[str, Any]],
        *,
        every_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._take, self._every_s, self._clock = take, every_s, clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._last: dict[str, Any] | None = None
        self._error: str | None = None
        self._seen: object = None
        self._not_before = 0.0
        self._number = 0

    def current(self, state: object) -> dict[str, Any]:
        """The last snapshot and its number (0: none yet), what went wrong with a newer one, and
        whether one is being taken. ``state`` is what the store holds now: where it is the same as
        at the last one, that one stays."""
        with self._lock:
            idle = self._thread is None
            if idle and self._clock() >= self._not_before and state != self._seen:
                self._seen = state
                self._thread = threading.Thread(
                    target=self._run, name="xrouter-dashboard", daemon=True
                )
                self._thread.start()
            return {
                "number": self._number,
                "snapshot": self._last,
                "error": self._error,
                "busy": self._thread is not None,
            }

    def wait(self, timeout_s: float) -> None:
        """Until the snapshot that is being taken is there."""
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(timeout_s)

    def _run(self) -> None:
        began, found, error = self._clock(), None, None
        try:
            found = self._take()
        except XRouterError as problem:
            error = str(problem)
        except Exception as problem:
            logger.exception("a snapshot failed")
            error = f"the figures can't be computed: {describe(problem)}"
        with self._lock:
            took = self._clock() - began
            self._not_before = self._clock() + max(self._every_s, _REST * took)
            self._error, self._thread = error, None
            if found is not None:
                self._last, self._number = found, self._number + 1
