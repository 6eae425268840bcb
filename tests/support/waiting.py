"""Waiting for what another thread, process or task does: for the thing, never for a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

_LONGEST_S = 60.0
"""Far beyond what the slowest machine needs: who waits so long waits for what does not come."""


def wait_until(happened: Callable[[], object]) -> None:
    """Come back when something is true.

    Raises:
        AssertionError: it has not come about in a minute.
    """
    until = time.monotonic() + _LONGEST_S
    while not happened():
        assert time.monotonic() < until, "it has not come about"
        time.sleep(0.005)


async def comes_about(happened: Callable[[], object]) -> None:
    """:func:`wait_until` for a coroutine, whose loop goes on meanwhile."""
    until = time.monotonic() + _LONGEST_S
    while not happened():
        assert time.monotonic() < until, "it has not come about"
        await asyncio.sleep(0.005)
