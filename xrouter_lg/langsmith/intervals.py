"""Stretches of time that are done, and what is left of a wish."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

Interval = tuple[datetime, datetime]
"""From, inclusive, to, exclusive."""


def add(done: Iterable[Interval], new: Interval) -> list[Interval]:
    """The union, sorted, without touching or overlapping neighbours."""
    merged: list[Interval] = []
    for start, end in sorted([*done, new]):
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def missing(wanted: Interval, done: Sequence[Interval]) -> list[Interval]:
    """What of ``wanted`` is not done, oldest first."""
    gaps: list[Interval] = []
    at, until = wanted
    for start, end in sorted(done):
        if end <= at:
            continue
        if start >= until:
            break
        if start > at:
            gaps.append((at, start))
        at = max(at, end)
    if at < until:
        gaps.append((at, until))
    return gaps


def without(done: Sequence[Interval], gone: Interval) -> list[Interval]:
    """``done`` less ``gone``."""
    kept: list[Interval] = []
    for interval in done:
        kept += missing(interval, [gone])
    return kept
