"""Make the calls of a worklist: within the budget, journalled, and never one twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from xrouter_lg.backfill.answer import AnswerKey, Stored
from xrouter_lg.backfill.asking import Asked, Asker
from xrouter_lg.backfill.cache import AnswerCache
from xrouter_lg.backfill.grader import Grader
from xrouter_lg.backfill.schedule import Schedule
from xrouter_lg.backfill.selection import Cell, Job, Worklist, submission
from xrouter_lg.calls.attempt import Workers
from xrouter_lg.calls.ledger import RequestAccount, Reservation
from xrouter_lg.errors import ErrorClass

AT_ONCE = 4
"""Verdicts at a time: most verifiers compute, and starve the calls' event loop of its core."""
_ZERO = Decimal(0)


@dataclass
class Tally:
    """How a run stands; ended, its result. USD are the whole account's unless said otherwise."""

    calls: int
    """Calls that the worklists so far have."""
    budget_usd: Decimal
    counted_usd: Decimal = _ZERO
    """What the budget counts as spent, worst cases of unknown costs included."""
    spent_usd: Decimal = _ZERO
    """This run's known costs."""
    answered: Counter[str] = field(default_factory=Counter)
    """Per card."""
    failed: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Per card and class, calls that are not tried again in this run."""
    repeated: int = 0
    """Failed calls that were made again."""
    cut: int = 0
    """Answers that ended at their length limit."""
    unaffordable: int = 0
    """Calls that did not fit into what was left."""
    in_flight: int = 0
    graded: int = 0
    gave_up: dict[str, str] = field(default_factory=dict)
    """Cards that were left alone, and why."""
    left: int = 0
    """Calls that were not made, for whatever reason."""
    stopped: Literal["done", "budget", "worth", "interrupted", "cards"] = "done"
    """``done``: every call was made or failed; else why some were not. ``worth``: no further answer
    is worth its price."""

    @property
    def done(self) -> int:
        return sum(self.answered.values()) + sum(self.failed.values())


OnChange = Callable[[Tally], None]


class Runner:
    """One run, of one worklist or several after each other; build it inside the event loop that
    runs it."""

    def __init__(
        self,
        work: Worklist,
        cache: AnswerCache,
        account: RequestAccount,
        *,
        workers: Workers | None = None,
        grader: Grader | None = None,
        concurrency: int = 8,
        on_change: OnChange | None = None,
    ) -> None:
        self.cache, self.account, self.grader = cache, account, grader
        self.asker = Asker(cache, account, workers=workers, cards=work.cards)
        self.concurrency = concurrency
        self.tally = Tally(0, account.limit_usd or _ZERO)
        self._on_change = on_change or (lambda tally: None)
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._grading: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self.fresh: list[Cell] = []
        """Cells that got an answer since this was last emptied."""
        self.take_up(work)

    def take_up(self, work: Worklist) -> None:
        """What :meth:`run` does next."""
        self.work = work
        self.tally.calls += len(work.jobs)
        self.schedule = Schedule(
            work.jobs, lambda name: self.asker.workers.cards.breaker(f"worker:{name}")
        )
        self._begun: set[int] = set()
        self._tries: Counter[int] = Counter()
        self._ranks: defaultdict[int, list[int]] = defaultdict(list)
        for rank, job in enumerate(work.jobs):
            self._ranks[job.group].append(rank)
        self._cells: defaultdict[AnswerKey, list[Cell]] = defaultdict(list)
        for cell in work.cells:
            for key in cell.keys:
                self._cells[key].append(cell)

    def stop(self) -> None:
        """Make no further call; those in flight are paid for and are waited for."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    async def run(self) -> Tally:
        """Every job, until the budget is used up, every card has failed or :meth:`stop`.

        Raises:
            BackfillError: the cache can't be written. No call is made that it does not know of.
        """
        from langsmith import tracing_context

        # These are no requests of the app: its traces must not grow by them.
        with tracing_context(enabled=False):
            running: set[asyncio.Task[None]] = set()
            try:
                await self._grade_cached()
                await self._loop(running)
                await self._finish_grading()
            except BaseException:
                for task in (*running, *self._grading):
                    task.cancel()
                await asyncio.gather(*running, *self._grading, return_exceptions=True)
                raise
            finally:
                self._sum_up()
        return self.tally

    async def _loop(self, running: set[asyncio.Task[None]]) -> None:
        stopped = asyncio.create_task(self._stop.wait())
        try:
            while True:
                blocked = not self._stop.is_set() and self._start(running)
                wait = self.schedule.opens_in()
                if not running and not blocked and (self._stop.is_set() or wait is None):
                    return
                full = len(running) >= self.concurrency
                waiting = {*running, *(self._grading if blocked else ())}
                if not stopped.done():
                    waiting.add(stopped)
                await asyncio.wait(
                    waiting,
                    timeout=None if blocked or full else wait,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for task in [task for task in running if task.done()]:
                    running.discard(task)
                    task.result()
        finally:
            stopped.cancel()

    def _start(self, running: set[asyncio.Task[None]]) -> bool:
        """Begin as many jobs as there is room and money for; whether the next has to wait until
        money that is set aside comes back."""
        while len(running) < self.concurrency:
            rank = self.schedule.next()
            if rank is None:
                return False
            job = self.work.jobs[rank]
            remaining = self.account.remaining
            if remaining is not None and self._need(job) > remaining:
                if running or self._grading:
                    return True
                self._give_up_prompt(job)
                continue
            reserved = self.account.reserve(job.worst_usd or _ZERO)
            for_judge = self.account.reserve(self._judge_usd(job))
            self.schedule.take(rank)
            self._begun.add(job.group)
            running.add(asyncio.create_task(self._make(rank, job, reserved, for_judge)))
            self.tally.in_flight = len(running)
        return False

    def _need(self, job: Job) -> Decimal:
        """What has to be there for this call; for a prompt's first, for all of its calls: half a
        prompt's outcomes can't be compared."""
        if job.group in self._begun:
            return (job.worst_usd or _ZERO) + self._judge_usd(job)
        ahead = [self.work.jobs[r] for r in self.schedule.waiting(self._ranks[job.group])]
        return sum(((one.worst_usd or _ZERO) + self._judge_usd(one) for one in ahead), _ZERO)

    def _judge_usd(self, job: Job) -> Decimal:
        if self.grader is None:
            return _ZERO
        known = self.work.known
        worst = [
            self.grader.worst_case(
                known.grid.keys[row],
                known.grid.prompts[row],
                known.told("reference", row),
                job.key.max_tokens,
            )
            for row in job.rows
        ]
        return sum((one or _ZERO for one in worst), _ZERO)

    def _give_up_prompt(self, job: Job) -> None:
        for rank in self.schedule.waiting(self._ranks[job.group]):
            self.schedule.take(rank)
            self.tally.unaffordable += 1

    async def _make(
        self, rank: int, job: Job, reserved: Reservation, for_judge: Reservation
    ) -> None:
        kept: Stored | None = None
        try:
            began = time.monotonic()
            self._tries[rank] += 1
            asked = await self.asker.ask(
                job, reserved, may_repeat=self._tries[rank] <= job.card.max_retries
            )
            if asked.error is None:
                kept = asked.stored
                self._answered(job, kept)
            else:
                self._failed(rank, job, asked, asked.error, began)
        finally:
            self.tally.in_flight -= 1
            self._sum_up()
            if kept is None:
                self.account.settle(for_judge, ())
        if kept is not None:
            if self.grader is None:
                self.account.settle(for_judge, ())
            else:
                self._spawn(self._grade(job.rows, kept, for_judge))

    def _answered(self, job: Job, kept: Stored | None) -> None:
        assert kept is not None
        self.schedule.answered(job.card.name)
        self.tally.answered[job.card.name] += 1
        self.tally.cut += kept.truncated
        self.tally.spent_usd += kept.cost_usd or _ZERO
        self.fresh += self._cells[job.key]

    def _failed(self, rank: int, job: Job, asked: Asked, error: ErrorClass, began: float) -> None:
        if asked.stored is not None:
            self.fresh += self._cells[job.key]
        self.tally.spent_usd += sum((one.cost_usd or _ZERO for one in asked.charges), _ZERO)
        self.schedule.failed(
            job.card.name,
            error,
            began=began,
            retry_after_s=asked.retry_after_s,
            detail=asked.detail,
        )
        if asked.again:
            self.tally.repeated += 1
            self.schedule.put_back(rank)
        else:
            self.tally.failed[job.card.name, error.value] += 1

    # Verdicts

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._grading.add(task)
        task.add_done_callback(self._grading.discard)

    async def _grade(self, rows: Iterable[int], stored: Stored, held: Reservation) -> None:
        assert self.grader is not None
        async with self._gate:
            # No pause between giving the judge's money back and the grader's taking it.
            self.account.settle(held, ())
            for row in rows:
                if self._stop.is_set():
                    return
                of = submission(self.work.known, row, self.cache, stored)
                await self.grader.grade(self.cache, self.account, of, stored.key)
                self.tally.graded += 1

    async def _grade_cached(self) -> None:
        """Verdicts on what was answered before, and has none by these verifiers."""
        grader = self.grader
        if grader is None:
            return
        nothing = self.account.reserve(_ZERO)
        for cell in self.work.cells:
            for key in cell.keys:
                stored = self.cache.find(key)
                if stored is None or stored.error is not None:
                    continue
                of = submission(self.work.known, cell.row, self.cache, stored)
                if grader.again or grader.find(self.cache, of) is None:
                    self._spawn(self._grade((cell.row,), stored, nothing))
                    while len(self._grading) >= 4 * AT_ONCE:
                        await asyncio.wait(self._grading, return_when=asyncio.FIRST_COMPLETED)
        await self._finish_grading()

    async def _finish_grading(self) -> None:
        while self._grading:
            done, _ = await asyncio.wait(self._grading, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()

    def _sum_up(self) -> None:
        tally = self.tally
        tally.counted_usd = self.account.spent
        tally.gave_up.update(self.schedule.gave_up)
        tally.left = tally.calls - tally.done
        if self._stop.is_set() and tally.left:
            tally.stopped = "interrupted"
        elif tally.unaffordable:
            tally.stopped = "budget"
        elif tally.gave_up:
            tally.stopped = "cards"
        self._on_change(tally)
