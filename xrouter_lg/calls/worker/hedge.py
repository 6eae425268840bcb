"""Two cards for one answer: the second is asked when the first is slow to its first token.

Tail latency is bought off with a few calls more (Dean and Barroso 2013, hedged requests). Whoever
shows a token first has the answer, or where nobody watches, whoever has its answer first; the other
is cancelled, and charged for what it may have cost.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from langchain_core.language_models import BaseChatModel, SimpleChatModel

from xrouter_lg.calls.told.stream_watch import StreamWatch
from xrouter_lg.calls.told.token_sink import TokenSink
from xrouter_lg.errors import XRouterError

_KEPT = 200
_LEAST = 20
"""First tokens of a card that have to have been seen for a quantile of them to mean something."""


def stops(model: BaseChatModel) -> bool:
    """Whether a call that is cancelled says nothing more. One that runs in a thread, because its
    class has no asynchronous methods, may go on."""
    kind = type(model)
    streams = kind._stream is not BaseChatModel._stream
    in_thread = (BaseChatModel._agenerate, SimpleChatModel._agenerate)
    return kind._agenerate not in in_thread and (
        kind._astream is not BaseChatModel._astream or not streams
    )


Start = Callable[["Lane"], Coroutine[Any, Any, Any]]


class Pace:
    """How long cards have taken to their first token, in this process."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, bool], deque[float]] = {}

    def note(self, card: str, streams: bool, seconds: float) -> None:
        """``streams``: whether it was a token that has come, not a whole answer."""
        self._seen.setdefault((card, streams), deque(maxlen=_KEPT)).append(seconds)

    def seconds(self, hedge: float | str, card: str, streams: bool) -> float | None:
        """After how long another card is asked; None while too little is known of this one."""
        if not isinstance(hedge, str):
            return hedge
        seen = sorted(self._seen.get((card, streams), ()))
        if len(seen) < _LEAST:
            return None
        return seen[min(len(seen) - 1, len(seen) * int(hedge[1:]) // 100)]


class Lane:
    """One of the two in a race."""

    def __init__(self, race: Race, number: int) -> None:
        self._race, self.number = race, number

    @property
    def lost(self) -> bool:
        """Whether the other one has the answer."""
        return self._race.winner not in (None, self.number)

    def optional(self, error: BaseException) -> bool:
        """Whether an error before the call ends nothing but the hope for a faster answer."""
        return self.number == 1 and isinstance(error, XRouterError)

    def first(self) -> None:
        """A token has come."""
        self._race.won(self.number)


class Race:
    """Between two calls for one answer."""

    def __init__(self) -> None:
        self.winner: int | None = None
        self._tasks: list[asyncio.Task[Any]] = []
        self._shown = asyncio.Event()

    def won(self, number: int) -> None:
        """Whoever is first; the other is cancelled at once, before it shows anything."""
        if self.winner is None:
            self.winner = number
            self._shown.set()
            for other, task in enumerate(self._tasks):
                if other != number:
                    task.cancel()

    async def run(
        self, first: Start, second: Start, after_s: float, good: Callable[[Any], bool]
    ) -> list[Any]:
        """What the calls gave, in their order: one, or both where the second was asked. ``good``
        says whether a result is an answer. A call that has lost has to give a result all the same.
        """
        shown = asyncio.ensure_future(self._shown.wait())
        self._tasks.append(asyncio.ensure_future(first(Lane(self, 0))))
        try:
            await asyncio.wait(
                {self._tasks[0], shown}, timeout=after_s, return_when=asyncio.FIRST_COMPLETED
            )
            if self._tasks[0].done() or self.winner is not None:
                return [await self._tasks[0]]
            self._tasks.append(asyncio.ensure_future(second(Lane(self, 1))))
            waiting = set(self._tasks)
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for number, task in enumerate(self._tasks):
                    if task in done and not task.cancelled() and good(task.result()):
                        self.won(number)
            # One that was cancelled before its first step has asked nobody.
            return [task.result() for task in self._tasks if not task.cancelled()]
        finally:
            shown.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)


class Listener:
    """Hears a call's tokens come, wherever they go."""

    def __init__(
        self, watch: StreamWatch | None, sink: TokenSink | None, lane: Lane | None
    ) -> None:
        self._watch, self._sink, self._lane = watch, sink, lane
        self.first_at: float | None = None
        """When (``time.perf_counter``) it came."""
        self.streams = watch is not None or sink is not None
        for heard in (watch, sink):
            if heard is not None:
                heard.on_first = self.heard

    def heard(self) -> None:
        if self.first_at is None:
            self.first_at = time.perf_counter()
            if self._lane is not None:
                self._lane.first()

    def accept(self, card: str) -> None:
        """What has come is the answer, though there may have been nothing to see."""
        if self._sink is not None and (self._lane is None or not self._lane.lost):
            self._sink.accept(card)

    @property
    def shown(self) -> bool:
        """Whether somebody has seen a part of the answer."""
        return (self._watch is not None and self._watch.seen) or (
            self._sink is not None and self._sink.shown
        )

    @property
    def said(self) -> int | None:
        """Characters that have come of an answer that streams, else None."""
        if self._sink is not None:
            return self._sink.said
        return None if self._watch is None else self._watch.said
