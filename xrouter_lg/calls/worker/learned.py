"""What models have said of themselves by refusing: parameters that they don't take, and how long an
answer they can be asked for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from xrouter_lg.calls.worker.refusals import largest_limit

logger = logging.getLogger(__name__)


class Refusals:
    """By the card's name: it outlives a pool's reload. Each refusal is told once. Thread-safe."""

    def __init__(self) -> None:
        self._refused: dict[str, frozenset[str]] = {}
        self._longest: dict[str, int] = {}
        self._lock = threading.Lock()

    def refused(self, card: str) -> frozenset[str]:
        """Parameters that the card's model does not take."""
        return self._refused.get(card, frozenset())

    def longest(self, card: str) -> int | None:
        """Tokens of the longest answer that the card's model can be asked for; None: not known."""
        return self._longest.get(card)

    def refuses(self, card: str, name: str, detail: str) -> None:
        """Remember a parameter that is left out from now on."""
        if not self.add_refused(card, [name]):
            return
        logger.warning(
            "card %r refuses the parameter %r; it is left out (a limit goes by its other name) "
            "from now on: %s",
            card,
            name,
            detail,
        )

    def add_refused(self, card: str, names: Iterable[str]) -> bool:
        """Remember parameters without a word; whether one of them is new."""
        with self._lock:
            known = self._refused.get(card, frozenset())
            self._refused[card] = known | frozenset(names)
            return self._refused[card] != known

    def is_too_long(self, card: str, error: Exception) -> bool:
        """Whether the model has refused to write as much as it was asked for, and says how much it
        does: no more is asked of it from now on."""
        most = largest_limit(error)
        if not most or not self.add_longest(card, most):
            return False
        logger.warning(
            "card %r writes %s tokens at most; it is asked for no longer answers from now on. Set "
            "its max_output_tokens",
            card,
            most,
        )
        return True

    def add_longest(self, card: str, tokens: int) -> bool:
        """Remember without a word how long an answer may be; whether it is shorter than known."""
        with self._lock:
            known = self._longest.get(card)
            if known is not None and known <= tokens:
                return False
            self._longest[card] = tokens
            return True

    def told(self) -> dict[str, dict[str, Any]]:
        """All of it in plain values, by card."""
        with self._lock:
            refused, longest = dict(self._refused), dict(self._longest)
        found: dict[str, dict[str, Any]] = {name: {} for name in (*refused, *longest)}
        for name, names in refused.items():
            found[name]["refused"] = sorted(names)
        for name, tokens in longest.items():
            found[name]["longest"] = tokens
        return found

    def heard(self, card: str, learned: Mapping[str, Any]) -> None:
        """Take over what another process says of a card."""
        if "refused" in learned:
            self.add_refused(card, learned["refused"])
        if "longest" in learned:
            self.add_longest(card, learned["longest"])
