"""Circuit breaker: a card that keeps failing is left alone for a while, then probed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Breaker:
    """Opens after ``threshold`` failures in a row, lets one probe through after ``cooldown_s``
    seconds, closes when a call succeeds. Thread-safe.

    State is this process's own; :class:`~xrouter_lg.calls.replicas.Replicas` keeps it in step with
    that of others.
    """

    def __init__(
        self,
        *,
        threshold: int = 5,
        cooldown_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.threshold, self.cooldown_s, self._clock = threshold, cooldown_s, clock
        self._lock = threading.Lock()
        self._failures = 0
        self._opened_at: float | None = None
        self._succeeded_at: float | None = None
        self._probing = False

    @property
    def open(self) -> bool:
        """Whether a call should go elsewhere now. Changes nothing."""
        # Reading one attribute is atomic, and this runs for every card of every request.
        if self._opened_at is None:
            return False
        with self._lock:
            if self._opened_at is None:
                return False
            return self._probing or self._clock() - self._opened_at < self.cooldown_s

    def begin(self) -> bool:
        """A call starts; False where it had better not, because the circuit is open. In the
        half-open state the first caller becomes the one probe and all others hear False."""
        if self._opened_at is None:
            return True
        with self._lock:
            if self._opened_at is None:
                return True
            if self._probing or self._clock() - self._opened_at < self.cooldown_s:
                return False
            self._probing = True
            return True

    def success(self) -> None:
        """The call was answered: closed again."""
        with self._lock:
            self._failures, self._opened_at, self._probing = 0, None, False
            self._succeeded_at = self._clock()

    def failure(self) -> None:
        """The call failed in a way that speaks against the card."""
        with self._lock:
            self._failures += 1
            if self._probing or self._failures >= self.threshold:
                self._opened_at = self._clock()
            self._probing = False

    @property
    def opened_s_ago(self) -> float | None:
        """Seconds since it has opened; None while it is closed."""
        opened_at = self._opened_at
        return None if opened_at is None else self._clock() - opened_at

    def follow(self, opened_s_ago: float | None) -> None:
        """Be as another process' breaker of the same card: open since then, or closed. It is not
        followed in what is older than an answer that came here."""
        with self._lock:
            if opened_s_ago is None:
                self._failures, self._opened_at, self._probing = 0, None, False
            elif self._opened_at is None:
                opened_at = self._clock() - opened_s_ago
                if self._succeeded_at is None or opened_at > self._succeeded_at:
                    self._opened_at = opened_at

    def cancel(self) -> None:
        """The call ended without saying anything about the card (cancelled, bad request)."""
        with self._lock:
            self._probing = False
