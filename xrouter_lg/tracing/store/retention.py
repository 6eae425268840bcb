"""Old traces out of the store, a few at a time, by the writer itself."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from xrouter_lg.errors import StoreError
from xrouter_lg.tracing.store.erase import TRACES_AT_A_TIME

if TYPE_CHECKING:
    from xrouter_lg.tracing.store.trace_store import TraceStore

logger = logging.getLogger(__name__)

_EVERY_S = 3600.0


class Retention:
    """Deletes traces older than ``days``: at the first step, and once an hour after that."""

    def __init__(self, store: TraceStore, days: float) -> None:
        self._store = store
        self._days = days
        self._next = 0.0

    def step(self) -> None:
        """Delete a hundred traces at most, if it is time; a failure waits for the next hour."""
        if time.monotonic() < self._next:
            return
        before = datetime.now(UTC) - timedelta(days=self._days)
        try:
            gone = self._store.prune(before=before, limit=TRACES_AT_A_TIME)["traces"]
        except StoreError as error:
            logger.info("old traces are not deleted for now: %s", error)
            gone = 0
        if gone < TRACES_AT_A_TIME:  # otherwise there are more: on with the next batch
            self._next = time.monotonic() + _EVERY_S
