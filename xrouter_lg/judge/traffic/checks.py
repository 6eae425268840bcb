"""One comparison of live traffic with a checkpoint: what it found, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MIN_CALLS = 30
"""Threads with a call, or a score, of a card below which it is not compared."""
CHANCE = 0.001
"""Of a difference where nothing moved, from which it may alarm; of all cards together."""
DRAWS, SEED = 1000, 0
RETRAIN = "Build outcomes of this traffic (`xrouter outcomes`), backfill, and train again."

Status = Literal["ok", "alarm", "unknown"]


@dataclass(frozen=True)
class Check:
    """One comparison. ``value`` and ``threshold`` are in the check's own unit."""

    name: str
    status: Status
    said: str
    value: float | None = None
    threshold: float | None = None
    advice: str = ""


def measured(
    name: str,
    said: str,
    value: float,
    threshold: float,
    beyond: bool,
    limit: str,
    advice: str,
) -> Check:
    """A figure with its threshold: an alarm, which says its ``limit``, where it lies beyond."""
    if beyond:
        return Check(name, "alarm", f"{said}; alarm {limit}", value, threshold, advice)
    return Check(name, "ok", said, value, threshold)
