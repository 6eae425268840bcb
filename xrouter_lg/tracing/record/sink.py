"""A bounded queue and the one thread that empties it, in batches.

The request's thread appends to a deque and, only when the writer is idle, wakes it. The writer
then lets a batch gather: a wake-up for each item would cost the request a switch of threads
each time (measured: +3 ms per request). A full queue drops the newest item and counts it.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

logger = logging.getLogger(__name__)

T = TypeVar("T")

_THREAD = "xrouter-recorder"
_LINGER_S = 0.05
"""How long a batch that is not full gathers."""


class _Mark:
    """Passes through the queue behind everything that was put before it."""

    def __init__(self) -> None:
        self.reached = threading.Event()


class BatchSink(Generic[T]):
    """Hands items to ``write`` in batches, on one daemon thread that starts with the first item.

    When ``write`` raises, its whole batch counts as failed; for parts of one it calls
    ``record_failure`` itself. Nothing here ever raises to the thread that puts.
    """

    def __init__(
        self,
        write: Callable[[list[T]], None],
        *,
        max_queue: int,
        batch: int = 512,
    ) -> None:
        self._write = write
        self._max_queue = max_queue
        self.batch = batch
        self.dropped = 0
        self.failed = 0
        self.last_error: BaseException | None = None
        self._warned = False
        self._reset()
        ref = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _reset_child(ref))
        atexit.register(self.close)

    def _reset(self) -> None:
        self._items: deque[T | _Mark] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._idle = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def put(self, item: T) -> None:
        """Queue an item; drop and count it when the queue is full or closed."""
        if not self.offer(item):
            with self._lock:
                self.dropped += 1
            self._warn_once("its queue is full or closed; the newest runs are dropped", None)

    def offer(self, item: T) -> bool:
        """Queue an item that need not be kept; False when the queue is full or closed."""
        if len(self._items) >= self._max_queue or self._closed:
            return False
        self._items.append(item)
        if self._idle:
            self._wake.set()
        elif self._thread is None:
            self._start()
        return True

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything put so far was handed to ``write``; False on timeout (seconds)."""
        mark = self.mark()
        return not self._items if mark is None else mark.wait(timeout)

    def mark(self) -> threading.Event | None:
        """Is set once everything put so far was handed to ``write``, which hurries; None where
        nobody writes."""
        if self._thread is None or not self._thread.is_alive():
            return None
        mark = _Mark()
        self._items.append(mark)
        self._hurry.set()
        self._wake.set()
        return mark.reached

    @property
    def patient(self) -> bool:
        """Whether what comes can be kept while ``write`` waits for something."""
        return not self._closed and len(self._items) < self._max_queue

    def close(self, timeout: float = 10.0) -> None:
        """Drain for at most ``timeout`` seconds, then stop. Later items are dropped."""
        self._closed = True
        self._hurry.set()
        self._wake.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        atexit.unregister(self.close)

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name=_THREAD, daemon=True)
                self._thread.start()

    def _loop(self) -> None:
        while True:
            if not self._items:
                self._idle = True
                # Looked at again after the flag: an item put in between would wait for the next.
                if not self._items and not self._closed:
                    self._wake.wait()
                self._idle = False
                self._wake.clear()
                if not self._items:
                    if self._closed:
                        return
                    continue
            if not self._closed and len(self._items) < self.batch:
                self._hurry.wait(_LINGER_S)
            self._take_batch()

    def _take_batch(self) -> None:
        batch: list[T] = []
        marks: list[_Mark] = []
        while self._items and len(batch) < self.batch:
            item = self._items.popleft()
            if isinstance(item, _Mark):
                marks.append(item)
            else:
                batch.append(item)
        if batch:
            try:
                self._write(batch)
            except Exception as error:  # the queue must outlive whatever a write can raise
                self.record_failure(len(batch), error)
        for mark in marks:
            mark.reached.set()
        if marks and not self._closed:
            self._hurry.clear()

    def record_failure(self, count: int, error: BaseException) -> None:
        """Count ``count`` items as lost to ``error``; warn the first time."""
        self.failed += count
        self.last_error = error
        self._warn_once("runs can't be written and are lost", error)

    def _warn_once(self, what: str, error: BaseException | None) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "xrouter trace recorder: %s%s. Requests go on. "
                "See recorder.dropped, recorder.failed and recorder.last_error.",
                what,
                "" if error is None else f": {error}",
            )


def _reset_child(ref: weakref.ref[BatchSink[Any]]) -> None:
    """In a forked child the writer's thread is gone and the queued items are the parent's."""
    sink = ref()
    if sink is not None:
        sink._reset()
