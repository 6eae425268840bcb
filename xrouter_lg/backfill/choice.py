"""Which of the answers that can be bought are bought next."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.backfill.known import Known
from xrouter_lg.backfill.selection import Selection, Shelf, Worklist
from xrouter_lg.value.buying import Market
from xrouter_lg.value.evidence import Evidence, thumbs
from xrouter_lg.value.features import Features
from xrouter_lg.value.purchases import Horizon, next_round, requests_of_a_month

LEAST_PROMPTS = 20
"""Of a table with fewer prompts nothing can be learned that would tell which answers are worth
more: all are asked, as far as the money goes."""


@dataclass
class RoundChooser:
    """Takes from a shelf, round by round."""

    shelf: Shelf
    selection: Selection
    learns: bool
    """Whether scores come in between rounds. If not there is one round: it has all the money."""
    taken: int = 0
    """Rounds so far."""
    _rows: set[int] = field(default_factory=set)
    """Prompts asked about so far."""

    @property
    def in_rounds(self) -> bool:
        return self.by_worth and self.learns

    @property
    def by_worth(self) -> bool:
        """Whether answers are weighed; of a handful of prompts all are asked."""
        weighed = len(self.shelf.known.grid) >= LEAST_PROMPTS
        return self.selection.strategy == "value" and weighed

    @cached_property
    def _features(self) -> Features:
        return Features.of(self.shelf.known.grid.prompts)

    @property
    def requests(self) -> float:
        """To be served with what is learned."""
        grid, told = self.shelf.known.grid, self.selection.horizon_requests
        times = np.asarray(grid.more.get("observed_at", np.zeros(0)), dtype=np.float64)
        return told or requests_of_a_month(times, len(grid))

    def next(self, left_usd: float) -> Worklist:
        """The next round's calls: its share of the money that is left, or less where nothing more
        is worth its price."""
        if not self.by_worth:
            return self._by_chance()
        share = max(self.selection.rounds - self.taken, 1) if self.learns else 1
        first, self.taken = self.taken == 0, self.taken + 1
        grid = self.shelf.known.grid
        price = self._price(left_usd)
        row_usd = np.where(np.isfinite(price), price, 0.0).sum(1)
        # A share that buys nothing would end the run with money left.
        budget = max(left_usd / share, min(left_usd, float(row_usd.max(initial=0.0))))
        basket = next_round(
            self._features,
            Evidence.of(grid),
            grid.cost,
            Market(price, np.isfinite(grid.score) & ~thumbs(grid)),
            Horizon(self.requests, self.selection.cost_weight),
            budget_usd=max(budget, 0.0),
            seed=self.selection.seed + self.taken,
        )
        wanted: dict[int, set[str]] = {}
        for one in basket.purchases:
            if self._within_limit(one.row):
                wanted.setdefault(one.row, set()).add(grid.cards[one.card])
        work = self.shelf.take(wanted)
        if not first:
            own = tuple(cell for cell in self.shelf.cells if cell.row in self._touched(work))
            work = dataclasses.replace(work, cells=own)
        return dataclasses.replace(work, gain=basket.gain, worth_usd=basket.worth_usd)

    def affordable(self, left_usd: float) -> bool:
        """Whether the money covers anything that is left, at its worst case."""
        return any(float(job.worst_usd or 0) <= left_usd for job in self.shelf.jobs())

    def learned(self, known: Known) -> None:
        """Go on from what is known now: the same prompts and cards."""
        self.shelf.known = known

    def _by_chance(self) -> Worklist:
        rows = np.array(sorted(self.shelf.jobs_by_row), dtype=np.int64)
        order = np.random.default_rng(self.selection.seed).permutation(rows)
        return self.shelf.take(dict.fromkeys(order[: self.selection.limit].tolist()))

    def _price(self, left_usd: float) -> Floats:
        """[N, M] expected USD; inf where nothing can be asked, or not at its worst case. Where a
        price is unknown, the middle of those that are not."""
        grid = self.shelf.known.grid
        place = {card: at for at, card in enumerate(grid.cards)}
        price, full = np.full(grid.score.shape, np.inf), self._full()
        for row, mine in self.shelf.jobs_by_row.items():
            if full and row not in self._rows:
                continue
            for job in mine:
                if float(job.worst_usd or 0) > left_usd:
                    continue
                usd = np.nan if job.mean_usd is None else job.mean_usd
                at = (row, place[job.card.name])
                price[at] = usd if np.isinf(price[at]) else price[at] + usd
        known = price[np.isfinite(price)]
        return np.where(np.isnan(price), np.median(known) if len(known) else 0.0, price)

    def _full(self) -> bool:
        limit = self.selection.limit
        return limit is not None and len(self._rows) >= limit

    def _within_limit(self, row: int) -> bool:
        if row not in self._rows and self._full():
            return False
        self._rows.add(row)
        return True

    @staticmethod
    def _touched(work: Worklist) -> set[int]:
        return {row for job in work.jobs for row in job.rows}
