"""One folder's backfill from end to end: what it would cost, the calls, and the table."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from xrouter_lg.backfill.cache import AccountSpending, AnswerCache
from xrouter_lg.backfill.choice import RoundChooser
from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.backfill.grader import Grader
from xrouter_lg.backfill.known import read_known
from xrouter_lg.backfill.results import rows_of, write_into
from xrouter_lg.backfill.run import OnChange, Runner, Tally
from xrouter_lg.backfill.selection import Selection, Worklist, chosen_pool, survey
from xrouter_lg.calls.attempt import Workers
from xrouter_lg.calls.ledger import RequestAccount
from xrouter_lg.calls.money import parse_usd
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.pool.pool import ModelPool

CACHE_NAME = "backfill.db"
"""The cache's usual place: this name in the table's folder."""


@dataclass(frozen=True)
class Conditions:
    """Under which conditions calls are made."""

    budget_usd: Decimal | float | str
    """The most that all runs on this account may cost together, verdicts included."""
    concurrency: int = 8
    allow_unknown_price: bool = False
    """Ask cards without a price as well: their calls then count nothing against the budget."""
    new_account: bool = False
    """Count from now on; what earlier runs spent no longer counts."""
    write_every_s: float = 60.0
    """Seconds between two writings of the table while calls are made."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget_usd", parse_usd(self.budget_usd, "budget_usd"))
        if self.concurrency < 1:
            raise BackfillError(f"concurrency is {self.concurrency!r}; it must be at least 1")

    @property
    def budget(self) -> Decimal:
        assert isinstance(self.budget_usd, Decimal)
        return self.budget_usd


@dataclass(frozen=True)
class CardPreview:
    """What would be asked of one card."""

    card: str
    ask: int
    cached: int
    failed_before: int
    mean_usd: float | None
    """Expected cost of all calls; None where the price is unknown."""
    worst_usd: float | None
    skipped: Mapping[str, int]


@dataclass(frozen=True)
class Preview:
    """What a run would do first, by expected costs: all that is asked, or the first of its rounds,
    what comes later being chosen by what was learned."""

    cards: tuple[CardPreview, ...]
    prompts: int
    """Prompts with a call to make."""
    within_budget: int
    """How many of them the budget covers at expected cost, in their order."""
    spending: AccountSpending
    budget_usd: Decimal
    judges: tuple[str, ...] = ()
    """Models that verdicts are paid for, on top of these figures."""
    rounds: int = 1
    """At most, about."""
    gain: float | None = None
    """Expected of the first round: score points per request; None where nobody can tell."""
    worth_usd: float | None = None
    """The same in dollars over ``requests``."""
    requests: float = 0.0
    """To be served with what is learned."""

    @property
    def mean_usd(self) -> float | None:
        return _sum([card.mean_usd for card in self.cards])

    @property
    def worst_usd(self) -> float | None:
        return _sum([card.worst_usd for card in self.cards])

    def to_dict(self) -> dict[str, Any]:
        return {
            "cards": [{**vars(card), "skipped": dict(card.skipped)} for card in self.cards],
            "calls": sum(card.ask for card in self.cards),
            "prompts": self.prompts,
            "prompts_within_budget": self.within_budget,
            "mean_usd": self.mean_usd,
            "worst_usd": self.worst_usd,
            "budget_usd": f"{self.budget_usd:f}",
            "spending": self.spending.to_dict(),
            "judges": list(self.judges),
            "rounds": self.rounds,
            "gain": self.gain,
            "worth_usd": self.worth_usd,
            "requests": self.requests,
        }


@dataclass
class Backfill:
    """A backfill that knows what it will ask. Open it with :meth:`open`; close it, or use it as a
    context manager. Opening reads the folder and the cache and changes neither.
    """

    folder: Path
    work: Worklist
    """The calls to make, or those of the present round."""
    chooser: RoundChooser
    cache: AnswerCache
    conditions: Conditions
    grader: Grader | None = None
    workers: Workers = field(default_factory=Workers)
    lost: int = 0
    """Calls of earlier runs that died in flight, closed by this run."""
    rename: Mapping[str, str] | None = None
    _one_at_a_time: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def open(
        cls,
        folder: str | Path,
        pool: ModelPool,
        conditions: Conditions,
        *,
        cards: Sequence[str] | None = None,
        selection: Selection | None = None,
        grader: Grader | None = None,
        cache: str | Path | None = None,
        rename: Mapping[str, str] | None = None,
        dry_run: bool = False,
    ) -> Self:
        """Choose what to ask the cards of ``pool`` about the table in ``folder``.

        ``cache`` is ``folder/backfill.db`` unless named. A dry run creates no file.

        Raises:
            OutcomeError: no usable table there.
            BackfillError: unknown card, cache in use, or nothing that could be asked.
        """
        root = Path(folder)
        chosen = chosen_pool(pool, cards)
        table = OutcomeTable.load(root)
        path = Path(cache) if cache is not None else root / CACHE_NAME
        known = read_known(table, tuple(chosen), rename=rename)
        opened = AnswerCache(None if dry_run and not path.exists() else path)
        try:
            shelf = survey(known, chosen, opened, selection or Selection())
            chooser = RoundChooser(shelf, selection or Selection(), grader is not None)
            spent = Decimal(0) if conditions.new_account else opened.spending().counted
            work = chooser.next(float(conditions.budget - spent))
        except BaseException:
            opened.close()
            raise
        return cls(root, work, chooser, opened, conditions, grader, rename=rename)

    def close(self) -> None:
        self.cache.close()
        if self.grader is not None:
            self.grader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def budget_usd(self) -> Decimal:
        return self.conditions.budget

    def spending(self) -> AccountSpending:
        """What the account has cost so far."""
        return self.cache.spending()

    def preview(self) -> Preview:
        """What :meth:`run` would do. Asks nothing."""
        work, spending = (
            self.work,
            AccountSpending() if self.conditions.new_account else self.spending(),
        )
        rows = []
        for card in work.cards:
            jobs = [job for job in work.jobs if job.card.name == card.name]
            unknown = card.effective_price is None
            rows.append(
                CardPreview(
                    card.name,
                    ask=len(jobs),
                    cached=work.cached.get(card.name, 0),
                    failed_before=work.failed.get(card.name, 0),
                    mean_usd=None if unknown else sum(job.mean_usd or 0.0 for job in jobs),
                    worst_usd=None if unknown else float(sum(job.worst_usd or 0 for job in jobs)),
                    skipped=work.skipped.get(card.name, {}),
                )
            )
        groups = sorted({job.group for job in work.jobs})
        cost = dict.fromkeys(groups, 0.0)
        for job in work.jobs:
            cost[job.group] += job.mean_usd or 0.0
        left, within = float(self.budget_usd - spending.counted), 0
        for group in groups:
            left -= cost[group]
            if left < 0:
                break
            within += 1
        judges = () if self.grader is None else tuple(c.name for c in self.grader.judges())
        return Preview(
            tuple(rows),
            len(groups),
            within,
            spending,
            self.budget_usd,
            judges,
            rounds=self.chooser.selection.rounds if self.chooser.in_rounds else 1,
            gain=work.gain,
            worth_usd=work.worth_usd,
            requests=self.chooser.requests,
        )

    async def run(self, on_change: OnChange | None = None, *, on_start: Any = None) -> Tally:
        """Make the calls and write the table. ``on_start`` gets the :class:`Runner`, whose
        ``stop()`` ends the run early with everything kept that was paid for.

        Raises:
            BackfillError: an unknown price, or a cache that can't be written.
            MissingKeyError, PoolError: a card that can't be built.
            UnprovenVerifierError: a verifier that misjudges a known case.
        """
        self._check_prices()
        asked = {job.card.name for job in (*self.work.jobs, *self.chooser.shelf.jobs())}
        if asked:
            self.workers.prepare(chosen_pool(ModelPool(self.work.cards), sorted(asked)))
        if self.conditions.new_account:
            self.cache.open_account()
        self.lost = self.cache.close_lost()
        account = RequestAccount(self.budget_usd, self.cache.account_charges())
        if self.grader is not None:
            await self.grader.prove(self.cache, account)
        runner = Runner(
            self.work,
            self.cache,
            account,
            workers=self.workers,
            grader=self.grader,
            concurrency=self.conditions.concurrency,
            on_change=on_change,
        )
        if on_start is not None:
            on_start(runner)
        writer = asyncio.create_task(self._write_now_and_then(runner))
        try:
            if self.chooser.in_rounds:
                return await self._rounds(runner)
            return await runner.run()
        finally:
            writer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writer
            self.write()

    async def _rounds(self, runner: Runner) -> Tally:
        """Ask, learn from it, choose, ask again: until the money is spent or no answer is worth its
        price."""
        tally, chooser = runner.tally, self.chooser
        while True:
            before = tally.done
            await runner.run()
            if runner.stopping:
                tally.stopped = "interrupted"
                return tally
            if self.work.jobs and tally.done == before:
                return tally
            if not self.work.jobs and chooser.taken > 1:
                return tally
            chooser.shelf.without(tally.gave_up)
            left = float(self.budget_usd - runner.account.spent)
            rows = rows_of(self.work.cells, self.work.known, self.cache, self.grader)
            self.work = await asyncio.to_thread(self._learn_and_choose, rows, left)
            if not self.work.jobs:
                if chooser.shelf.jobs_by_row:
                    tally.stopped = "worth" if chooser.affordable(left) else "budget"
                return tally
            runner.take_up(self.work)

    def _learn_and_choose(self, rows: list[dict[str, Any]], left_usd: float) -> Worklist:
        self._write(rows)
        table = OutcomeTable.load(self.folder)
        self.chooser.learned(read_known(table, self.work.cards, rename=self.rename))
        return self.chooser.next(left_usd)

    def write(self) -> None:
        """The table with everything that the cache knows of it."""
        cells = self.chooser.shelf.cells
        self._write(rows_of(cells, self.work.known, self.cache, self.grader))

    def _write(self, rows: list[dict[str, Any]]) -> None:
        with self._one_at_a_time:
            write_into(self.folder, rows)

    async def _write_now_and_then(self, runner: Runner) -> None:
        pause = self.conditions.write_every_s
        while True:
            await asyncio.sleep(pause)
            cells, runner.fresh = runner.fresh, []
            began = time.monotonic()
            rows = rows_of(cells, self.work.known, self.cache, self.grader)
            await asyncio.to_thread(self._write, rows)
            # A large table must not be written all the time.
            pause = max(pause, 20 * (time.monotonic() - began))

    def _check_prices(self) -> None:
        if self.conditions.allow_unknown_price:
            return
        unknown = {job.card.name for job in self.work.jobs if job.worst_usd is None}
        unknown |= set(self.chooser.shelf.unpriced())
        judges = [] if self.grader is None else self.grader.judges()
        unknown |= {card.name for card in judges if card.effective_price is None}
        if unknown:
            raise BackfillError(
                f"the price of {', '.join(map(repr, sorted(unknown)))} is unknown, so no budget "
                "can be kept; give the card a price {input: ..., output: ...} in USD per million "
                "tokens, leave it out with --cards, or accept it with --allow-unknown-price"
            )


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return None if len(known) < len(values) else sum(known)
