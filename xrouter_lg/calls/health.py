"""What one call tells of its card's health."""

from __future__ import annotations

from xrouter_lg.calls.breaker import Breaker
from xrouter_lg.calls.failures import PERHAPS_THE_REQUEST, UNHEALTHY
from xrouter_lg.errors import ErrorClass

_ODD_FAILURES = 2
"""What one call adds at most to a card's failures where the request may be to blame."""


class Health:
    """One call's word on its card, which may be no word at all."""

    def __init__(self, breaker: Breaker) -> None:
        self._breaker, self._odd, self._admitted = breaker, 0, False

    def begin(self) -> bool:
        """An attempt starts; False where the circuit is open."""
        self._admitted = self._breaker.begin()
        return self._admitted

    def failed(self, error_class: ErrorClass) -> None:
        """An attempt failed: it counts against the card, unless the request is to blame."""
        odd = error_class in PERHAPS_THE_REQUEST
        self._odd += odd
        if error_class in UNHEALTHY and not (odd and self._odd > _ODD_FAILURES):
            self._breaker.failure()
        else:
            self.cancel()

    def cancel(self) -> None:
        """The attempt says nothing of the card."""
        if self._admitted:  # else the probe that is under way is somebody else's
            self._breaker.cancel()
