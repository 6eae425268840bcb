"""Which job is next: in order of value, but for cards that have to be left alone for a while."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from xrouter_lg.backfill.selection import Job
from xrouter_lg.calls.breaker import Breaker
from xrouter_lg.errors import ErrorClass

LONGEST_PAUSE_S = 300.0
"""A card that asks for a longer pause is given up on; a later run asks it again."""
_STRIKES = 2
"""How often a card's circuit may open before it is given up on: once, and once more after its
probe."""
_LIMITED_STRIKES = 10
"""The same for a card that only says that it is asked too often."""
_REFUSALS = 10
"""Bad requests in a row, with no answer before, that say the card itself is set up wrongly."""
_POLL_S = 0.1
"""How often an open circuit is looked at."""
_FIRST_PAUSE_S = 2.0

_HOPELESS = (ErrorClass.AUTH, ErrorClass.QUOTA, ErrorClass.NOT_FOUND)


@dataclass
class _Line:
    """A card's jobs and its health."""

    breaker: Breaker
    ranks: list[int] = field(default_factory=list)
    paused_until: float = 0.0
    struck_at: float = 0.0
    strikes: int = 0
    refusals: int = 0
    answers: int = 0


class Schedule:
    """The jobs that are still to be made, by rank (their place in the worklist)."""

    def __init__(
        self,
        jobs: Sequence[Job],
        breaker_of: Callable[[str], Breaker],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.jobs, self._clock = jobs, clock
        self.gave_up: dict[str, str] = {}
        """Cards that are not asked any more in this run, and why."""
        self.dropped: list[Job] = []
        """Jobs of those cards."""
        # What is taken leaves this set at once, and its line when it comes to the line's head.
        self._waiting = set(range(len(jobs)))
        self._lines: dict[str, _Line] = {}
        for rank, job in enumerate(jobs):
            name = job.card.name
            line = self._lines.get(name)
            if line is None:
                line = self._lines[name] = _Line(breaker_of(name))
            line.ranks.append(rank)  # rising, so a heap already

    def __len__(self) -> int:
        return len(self._waiting)

    def next(self) -> int | None:
        """The first job whose card can be asked now; it stays until :meth:`take`."""
        now = self._clock()
        ready = [
            head
            for line in self._lines.values()
            if (head := self._head(line)) is not None
            and now >= line.paused_until
            and not line.breaker.open
        ]
        return min(ready, default=None)

    def _head(self, line: _Line) -> int | None:
        while line.ranks and line.ranks[0] not in self._waiting:
            heapq.heappop(line.ranks)
        return line.ranks[0] if line.ranks else None

    def take(self, rank: int) -> None:
        self._waiting.discard(rank)

    def put_back(self, rank: int) -> None:
        """Ask it again, at its old place."""
        card = self.jobs[rank].card.name
        if card in self.gave_up:
            self.dropped.append(self.jobs[rank])
        else:
            self._waiting.add(rank)
            heapq.heappush(self._lines[card].ranks, rank)

    def waiting(self, ranks: Sequence[int]) -> list[int]:
        """Those of ``ranks`` that are still to be made."""
        return [rank for rank in ranks if rank in self._waiting]

    def opens_in(self) -> float | None:
        """Seconds until another card can be asked, None when no job is left."""
        now = self._clock()
        pauses = [
            max(_POLL_S if line.breaker.open else 0.0, line.paused_until - now)
            for line in self._lines.values()
            if self._head(line) is not None
        ]
        return min(pauses, default=None)

    def answered(self, card: str) -> None:
        line = self._lines[card]
        line.answers += 1
        line.strikes = line.refusals = 0

    def failed(
        self,
        card: str,
        error: ErrorClass,
        *,
        began: float,
        retry_after_s: float | None,
        detail: str,
    ) -> None:
        """A call failed: pause the card, or give up on it. ``began`` by this object's clock."""
        line, now = self._lines[card], self._clock()
        if card in self.gave_up:
            return
        limited = error is ErrorClass.RATE_LIMIT
        line.refusals = line.refusals + 1 if error is ErrorClass.BAD_REQUEST else 0
        if (line.breaker.open or limited) and began >= line.struck_at:
            # Calls that were in flight together are one strike.
            line.strikes, line.struck_at = line.strikes + 1, now
        pause = 0.0
        if limited:
            pause = retry_after_s or min(60.0, _FIRST_PAUSE_S * 2.0 ** (line.strikes - 1))
        why = None
        if error in _HOPELESS:
            why = f"{error}: {detail}"
        elif pause > LONGEST_PAUSE_S:
            why = f"it asks to be left alone for {pause:.0f} s"
        elif line.strikes >= (_LIMITED_STRIKES if limited else _STRIKES):
            why = f"it kept failing: {error}: {detail}"
        elif line.refusals >= _REFUSALS and not line.answers:
            why = f"it refuses every call: {detail}"
        if why is None:
            line.paused_until = max(line.paused_until, now + pause)
            return
        self.gave_up[card] = why
        mine = sorted(rank for rank in set(line.ranks) if rank in self._waiting)
        self.dropped += [self.jobs[rank] for rank in mine]
        self._waiting.difference_update(mine)
