"""What a call tells of its card's health, and of what a person has to mend."""

from __future__ import annotations

import logging
import threading
import time

from xrouter_lg.calls.breaker import Breaker
from xrouter_lg.calls.failures import PERHAPS_THE_REQUEST, UNHEALTHY, Failure
from xrouter_lg.errors import ErrorClass

logger = logging.getLogger(__name__)

_ODD_FAILURES = 2
"""What one call adds at most to a card's failures where the request may be to blame."""

_MEND = {
    ErrorClass.NOT_FOUND: "check the model's name and base_url",
    ErrorClass.AUTH: "check the key in its api_key_env",
    ErrorClass.QUOTA: "add credit, or use another key",
}
"""Failures that no further attempt mends, and what does."""

_TOLD_EVERY_S = 60.0
_told: dict[tuple[str, str], float] = {}
_telling = threading.Lock()


class Health:
    """One call's word on its card."""

    def __init__(self, card: str, breaker: Breaker) -> None:
        self._card, self._breaker = card, breaker
        self._odd, self._admitted = 0, False

    def begin(self) -> bool:
        """An attempt starts; False where the circuit is open."""
        self._admitted = self._breaker.begin()
        return self._admitted

    def failed(self, failure: Failure) -> None:
        """An attempt failed: it counts against the card, unless the request is to blame."""
        kind = failure.error_class
        odd = kind in PERHAPS_THE_REQUEST
        self._odd += odd
        if kind not in UNHEALTHY or (odd and self._odd > _ODD_FAILURES):
            self.cancel()
            return
        was_open = self._breaker.open
        self._breaker.failure()
        if kind in _MEND:
            _tell(self._card, kind, f"fails every call ({kind}); {_MEND[kind]}", failure)
        elif self._breaker.open and not was_open:
            pause = self._breaker.cooldown_s
            _tell(self._card, "open", f"keeps failing and is left alone for {pause:g} s", failure)

    def cancel(self) -> None:
        """The attempt says nothing of the card."""
        if self._admitted:  # else the probe that is under way is somebody else's
            self._breaker.cancel()


def _tell(card: str, what: str, text: str, failure: Failure) -> None:
    """One log line, at most once a minute for the same card and cause."""
    now = time.monotonic()
    with _telling:
        if now - _told.get((card, what), -_TOLD_EVERY_S) < _TOLD_EVERY_S:
            return
        _told[card, what] = now
    logger.warning("card %r %s: %s", card, text, failure.detail)
