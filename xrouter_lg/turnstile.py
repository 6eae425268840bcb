"""Many requests that begin, or come back, in one moment of an event loop: a few at a time.

An event loop runs all that is ready before it looks at anything else. A thousand requests that are
ready at once hold it for as long as their work takes together, some seconds; through a turnstile it
is held for as long as a few take.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque

_A_ROUND = 4
"""Requests that pass in one round of the loop; each has some milliseconds of work before it waits
again."""


class Turnstile:
    """One event loop's: see the module. Not thread-safe, as the loop itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._left = _A_ROUND
        self._turning = False

    async def passed(self) -> None:
        """Go on at once where few do so; else in one of the loop's next rounds, in order."""
        if self._left > 0 and not self._waiting:
            self._left -= 1
            if self._left == 0:  # only then: a round of the loop costs a look at its sockets
                self._turn()
            return
        loop = self._loop()
        assert loop is not None
        place = loop.create_future()
        self._waiting.append(place)
        self._turn()  # the round before may have let exactly as many pass as there were
        await place

    def _turn(self) -> None:
        """See to it that the next round lets others pass."""
        if not self._turning:
            self._turning = True
            loop = self._loop()
            assert loop is not None
            loop.call_soon(self._next_round)

    def _next_round(self) -> None:
        self._turning = False
        self._left = _A_ROUND
        while self._waiting and self._left > 0:
            place = self._waiting.popleft()
            if not place.done():  # else its request was cancelled
                place.set_result(None)
                self._left -= 1
        if self._waiting:
            self._turn()


_turnstiles: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Turnstile] = (
    weakref.WeakKeyDictionary()
)


async def take_turns() -> None:
    """Pass the running loop's turnstile."""
    loop = asyncio.get_running_loop()
    found = _turnstiles.get(loop)
    if found is None:
        found = _turnstiles[loop] = Turnstile(loop)
    await found.passed()
