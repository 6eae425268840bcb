"""How a pool's cards are, as their calls have shown it: health, refusals, overruns, cost, pace."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from decimal import ROUND_UP, Decimal
from typing import Any

from xrouter_lg.calls.breaker import Breaker
from xrouter_lg.calls.usual_cost import UsualCost
from xrouter_lg.calls.worker.hedge import Pace
from xrouter_lg.calls.worker.learned import Refusals

logger = logging.getLogger(__name__)


class CardStates:
    """By the cards' names: what is known outlives a pool's reload."""

    def __init__(self) -> None:
        self._breakers: dict[str, Breaker] = {}
        self.refusals = Refusals()
        self.overruns: dict[str, Decimal] = {}
        """Cards that have cost more than their worst case, and how many times as much."""
        self.usual = UsualCost()
        self.pace = Pace()
        self._lock = threading.Lock()

    def breaker(self, card: str) -> Breaker:
        """The health of a card, by the kind of its calls and its name: ``worker:small``."""
        found = self._breakers.get(card)
        if found is None:
            with self._lock:
                found = self._breakers.setdefault(card, Breaker())
        return found

    def overrun(self, card: str, cost_usd: Decimal, worst_usd: Decimal) -> Decimal:
        """What a call has cost above its bound (USD), which the next one is reserved by."""
        over = cost_usd - worst_usd
        with self._lock:
            factor = self.overruns.get(card, Decimal(1)) * cost_usd / worst_usd
            # Rounded up: by this factor the same call would have fitted.
            self.overruns[card] = factor.quantize(Decimal("0.001"), rounding=ROUND_UP)
        logger.warning(
            "card %r has cost $%s more than the $%s that its limits allow; its calls are reserved "
            "at %s times their worst case from now on",
            card,
            format(over, "f"),
            format(worst_usd, "f"),
            self.overruns[card],
        )
        return over

    def told(self) -> dict[str, tuple[float | None, Mapping[str, Any]]]:
        """What other replicas may want to know: see :class:`~xrouter_lg.calls.replicas.Shares`."""
        with self._lock:
            breakers, overruns = dict(self._breakers), dict(self.overruns)
        refusals = self.refusals.told()
        found: dict[str, tuple[float | None, Mapping[str, Any]]] = {}
        for place in {*breakers, *(f"worker:{name}" for name in (*refusals, *overruns))}:
            kind, _, name = place.partition(":")
            learned = dict(refusals.get(name, {})) if kind == "worker" else {}
            if kind == "worker" and name in overruns:
                learned["overrun"] = str(overruns[name])
            found[place] = (self.breaker(place).opened_s_ago, learned)
        return found

    def heard(
        self, card: str, opened_s_ago: float | None, changed: bool, learned: Mapping[str, Any]
    ) -> None:
        """Take over what another replica says of a card."""
        name = card.partition(":")[2]
        if changed:
            self.breaker(card).follow(opened_s_ago)
        with self._lock:
            if "overrun" in learned:
                known = self.overruns.get(name, Decimal(1))
                self.overruns[name] = max(known, Decimal(learned["overrun"]))
        self.refusals.heard(name, learned)
