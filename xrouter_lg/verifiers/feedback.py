"""A verifier that asks no one: the score is what users said."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from xrouter_lg.verifiers.base import Case, Unverifiable, Verdict, Verifier, VerifierConfigError


class Feedback(Verifier):
    """The mean of ``meta["feedback"]`` under the given keys, mapped from ``scale`` to [0, 1].

    Each feedback is a mapping with ``key``, ``score`` and perhaps ``value``. ``value`` wins where
    it is a number: LangSmith rounds scores to four decimals and keeps values as they are. No
    feedback under these keys is None, never 0: most users say nothing.
    """

    name: ClassVar[str] = "feedback"

    def __init__(
        self,
        *,
        keys: Sequence[str] | str = ("user_score",),
        scale: Sequence[float] = (0.0, 1.0),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.keys = (keys,) if isinstance(keys, str) else tuple(keys)
        if not self.keys:
            raise VerifierConfigError("keys is empty; name the feedback keys that count")
        if len(scale) != 2 or not scale[0] < scale[1]:
            raise VerifierConfigError(
                f"scale of feedback {', '.join(self.keys)} is {scale!r}; it must be two rising "
                "numbers, e.g. [1, 5]"
            )
        self.low, self.high = float(scale[0]), float(scale[1])

    def default_cases(self) -> Sequence[Case]:
        key = self.keys[0]
        return (
            Case("", meta={"feedback": [{"key": key, "score": self.high}]}),
            Case("", good=False, meta={"feedback": [{"key": key, "score": self.low}]}),
        )

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        numbers: list[float] = []
        for item in meta.get("feedback") or ():
            if item.get("key") in self.keys:
                number = _number(item.get("value"))
                number = _number(item.get("score")) if number is None else number
                if number is not None:
                    numbers.append(number)
        if not numbers:
            raise Unverifiable(f"no feedback under {', '.join(self.keys)}")
        outside = [n for n in numbers if not self.low <= n <= self.high]
        if outside:
            raise Unverifiable(f"feedback {outside[0]} is outside scale [{self.low}, {self.high}]")
        mean = sum(numbers) / len(numbers)
        score = (mean - self.low) / (self.high - self.low)
        return Verdict(min(max(score, 0.0), 1.0), f"{len(numbers)} feedback")


def is_number(value: Any) -> bool:
    """Whether a feedback's ``score`` or ``value`` says something that can be averaged."""
    return isinstance(value, int | float) and math.isfinite(value)


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None
