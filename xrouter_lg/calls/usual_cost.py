"""What a request has probably cost where nobody says so: learned from the answers that had a bill.

A card's cost is taken as ``a · asked + b · said``, by the size of the request and of the answer:
least squares over its answers in this process, which the card's price starts.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from decimal import Decimal

from xrouter_lg.pool.card import ModelCard

_CHARS_PER_TOKEN = 4
_TYPICAL_INPUT_TOKENS = 500
_PRIOR_CHARS = 400.0
"""Size of the two imagined requests, one of a prompt alone and one of an answer alone, that the
price speaks for. It decides only what the answers leave open."""
_DIGITS = Decimal("1e-12")


@dataclass
class _Sums:
    """Over a card's answers: products of asked (a), said (s) and cost (c)."""

    count: int = 0
    said: float = 0.0
    aa: float = 0.0
    as_: float = 0.0
    ss: float = 0.0
    ac: float = 0.0
    sc: float = 0.0

    def add(self, asked: float, said: float, cost: float) -> None:
        self.aa += asked * asked
        self.as_ += asked * said
        self.ss += said * said
        self.ac += asked * cost
        self.sc += said * cost


class UsualCost:
    """What answers of a card usually cost (USD), by its name. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: dict[str, _Sums] = {}

    def note(self, card: ModelCard, asked: int, said: int, usd: Decimal) -> None:
        """One more answer: characters of the request and of the answer, and what it has cost."""
        with self._lock:
            sums = self._of(card)
            sums.add(asked, said, float(usd))
            sums.count += 1
            sums.said += said

    def of(self, card: ModelCard, asked: int, said: int | None) -> Decimal | None:
        """Of a request of ``asked`` characters, ``said`` of whose answer had come; None takes the
        usual answer. Before the first answer by the card's price; None where that is unknown."""
        with self._lock:
            sums = self._of(card)
            if said is None:
                if not sums.count:
                    tokens = asked // _CHARS_PER_TOKEN or _TYPICAL_INPUT_TOKENS
                    return card.estimate_usd(tokens)
                answer = sums.said / sums.count
            else:
                answer = said
            found = sums.aa * sums.ss - sums.as_ * sums.as_
            if found <= 0:
                return None
            of_asked = (sums.ac * sums.ss - sums.sc * sums.as_) / found
            of_said = (sums.sc * sums.aa - sums.ac * sums.as_) / found
        usd = max(0.0, of_asked * asked + of_said * answer)
        return Decimal(repr(usd)).quantize(_DIGITS)

    def _of(self, card: ModelCard) -> _Sums:
        sums = self._sums.get(card.name)
        if sums is None:
            sums = self._sums[card.name] = _Sums()
            tokens = int(_PRIOR_CHARS) // _CHARS_PER_TOKEN
            prompt, both = card.estimate_usd(tokens, 0), card.estimate_usd(tokens, tokens)
            if prompt is not None and both is not None:
                sums.add(_PRIOR_CHARS, 0, float(prompt))
                sums.add(0, _PRIOR_CHARS, float(both - prompt))
        return sums
