"""Whom the demo's app hears from: users with a thumb now and then, and a judge of bought answers.

Both know the recorded truth and are wrong one time in ten. Every draw is a hash of what it is
about, so that a run that was stopped goes on as it would have gone on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xrouter_lg.testing import Reply

THUMBS = 1 / 3
"""Share of the answers that somebody says something about."""
WRONG = 0.1
"""Share of all verdicts that say the opposite of the truth."""
PROOF = {"How many legs has a dog? Only the number.": {"4": 1.0, "5": 0.0}}
"""What a judge is proved on before it may score anything: question, answer, verdict."""


@dataclass(frozen=True)
class Users:
    """Those who ask."""

    seed: int = 0

    def thumb(self, request: str, truth: float) -> float | None:
        """What is said of the answer to a request: 1 (up), 0 (down), or nothing."""
        if drawn(self.seed, "says", request) >= THUMBS:
            return None
        return _told(truth, drawn(self.seed, "thumb", request))


@dataclass(frozen=True)
class ReplayedJudge:
    """A model that grades answers, as the verifier ``judge`` asks it. ``truth`` tells what an
    answer to a prompt scores."""

    truth: Callable[[str, str], float]
    seed: int = 0

    def reply(self, body: dict[str, Any]) -> Reply:
        """Its verdict on the framed question and answer of a request's last message."""
        asked = str(body["messages"][-1]["content"])
        mark = asked.rsplit("Grade the answer marked ", 1)[1].rstrip(".")

        def framed(name: str) -> str:
            inside = asked.split(f"--- {name} {mark} ---\n", 1)[1]
            return inside.split(f"\n--- end {mark} ---", 1)[0]

        prompt, answer = framed("question"), framed("answer")
        if prompt in PROOF:
            score = PROOF[prompt].get(answer, 0.0)
        else:
            score = _told(self.truth(prompt, answer), drawn(self.seed, "judge", prompt, answer))
        return Reply(content=json.dumps({"reasoning": "as it seems to me", "score": score > 0.5}))


def drawn(*about: object) -> float:
    """A number in [0, 1) that goes by its arguments alone."""
    digest = hashlib.sha256(repr(about).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _told(truth: float, chance: float) -> float:
    right = truth > 0.5
    return float(right if chance >= WRONG else not right)
