"""What a backfill can ask, and what it will cost; nothing is called for it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xrouter_lg.backfill.answer import AnswerKey, Stored, key_base
from xrouter_lg.backfill.asking import Order, answer_limit, handed_in
from xrouter_lg.backfill.cache import AnswerCache
from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.backfill.known import Known
from xrouter_lg.calls.money import worst_case
from xrouter_lg.calls.tokens import PromptSize, prompt_size
from xrouter_lg.errors import NoCandidateError
from xrouter_lg.outcomes.conversation import Conversation, UnaskableError, conversation_of, meta_of
from xrouter_lg.pool.card import TYPICAL_OUTPUT_TOKENS, ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing import constraints
from xrouter_lg.types import RouteRequest
from xrouter_lg.verifiers.grading import Submission

Strategy = Literal["value", "random"]


@dataclass(frozen=True)
class Selection:
    """What to ask about."""

    strategy: Strategy = "value"
    """``value``: the answers that add most to what routing is worth, in rounds, until none is worth
    its price. ``random``: all that is missing, prompt by prompt, in an order drawn by chance."""
    rounds: int = 6
    """Of ``value``; between two of them, what has come is learned from."""
    cost_weight: float | None = None
    """λ that requests will be routed with; None where they come with many."""
    horizon_requests: float | None = None
    """Requests that are to be served with what is learned; None: a month of the log's."""
    seed: int = 0
    limit: int | None = None
    """Prompts to ask about."""
    max_tokens: int | None = None
    """Longest answer (tokens) of every card; each card's own limit holds as well."""
    repeat: int = 1
    """Answers per prompt and card; the outcome is their mean."""
    retry_failed: bool = False
    """Ask again what failed for good."""
    rescore: bool = False
    """Take up cached answers whose outcome has a score already."""

    def __post_init__(self) -> None:
        for name in ("limit", "max_tokens", "repeat", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise BackfillError(f"{name} is {value!r}; it must be at least 1")
        for name, allowed in (("cost_weight", "0 or above"), ("horizon_requests", "above 0")):
            value = getattr(self, name)
            if value is None:
                continue
            if not 0 <= value < math.inf or (name == "horizon_requests" and value == 0):
                raise BackfillError(f"{name} is {value!r}; it must be {allowed}")
        if self.strategy not in ("value", "random"):
            raise BackfillError(f"strategy is {self.strategy!r}; it is 'value' or 'random'")


@dataclass(frozen=True, slots=True)
class Cell:
    """A prompt × card without a score in the table, and the answers that make its outcome."""

    row: int
    card: ModelCard
    keys: tuple[AnswerKey, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job(Order):
    """One call to make, and what it is made for."""

    group: int
    """Place of its conversation in the order; jobs of one conversation belong together."""
    rows: tuple[int, ...]
    """Prompts of the table that have this conversation."""
    mean_usd: float | None


@dataclass(frozen=True)
class Worklist:
    """Jobs in order of value; within a prompt the dearest card first, so that a prompt whose
    dearest card can't be paid for is not begun."""

    known: Known
    cards: tuple[ModelCard, ...]
    jobs: tuple[Job, ...]
    cells: tuple[Cell, ...]
    """All that can be filled from the cache now or after the jobs."""
    cached: Mapping[str, int]
    """Answers per card that are in the cache and cost nothing."""
    failed: Mapping[str, int]
    """Calls per card that failed for good before."""
    skipped: Mapping[str, Mapping[str, int]]
    """Prompts per card and reason for which it can't be asked."""
    gain: float | None = None
    """What the jobs are expected to add, score points per request; None where nobody can tell."""
    worth_usd: float | None = None
    """The same in dollars, over the requests to be served."""


@dataclass
class Shelf:
    """All that can be asked. What was taken is gone, whether it was answered or not."""

    known: Known
    cards: tuple[ModelCard, ...]
    jobs_by_row: dict[int, list[Job]]
    cells: tuple[Cell, ...]
    cached: Mapping[str, int]
    failed: Mapping[str, int]
    skipped: Mapping[str, Mapping[str, int]]

    def jobs(self) -> list[Job]:
        return [job for mine in self.jobs_by_row.values() for job in mine]

    def unpriced(self) -> list[str]:
        """Cards that can be asked whose price is unknown."""
        return sorted({job.card.name for job in self.jobs() if job.worst_usd is None})

    def without(self, cards: Collection[str]) -> None:
        """Take away what is left of these cards."""
        for row, mine in list(self.jobs_by_row.items()):
            self._keep(row, [job for job in mine if job.card.name not in cards])

    def take(self, wanted: Mapping[int, Collection[str] | None]) -> Worklist:
        """The jobs of these rows, in their order, and of these cards; None stands for all."""
        jobs: list[Job] = []
        for group, (row, cards) in enumerate(wanted.items()):
            mine = self.jobs_by_row[row]
            taken = [job for job in mine if cards is None or job.card.name in cards]
            self._keep(row, [job for job in mine if job not in taken])
            jobs += [
                dataclasses.replace(job, group=group) for job in sorted(taken, key=dearest_first)
            ]
        return self.worklist(tuple(jobs))

    def worklist(self, jobs: tuple[Job, ...], cells: tuple[Cell, ...] | None = None) -> Worklist:
        own = self.cells if cells is None else cells
        return Worklist(self.known, self.cards, jobs, own, self.cached, self.failed, self.skipped)

    def _keep(self, row: int, jobs: list[Job]) -> None:
        if jobs:
            self.jobs_by_row[row] = jobs
        else:
            self.jobs_by_row.pop(row, None)


def survey(known: Known, pool: ModelPool, cache: AnswerCache, selection: Selection) -> Shelf:
    """All that is missing, what of it the cache has, and what can be asked."""
    draft = _Draft(known, pool, cache, selection)
    for row in range(len(known)):
        draft.look_at(row)
    skipped = {card: dict(reasons) for card, reasons in draft.skipped.items()}
    told = (draft.cached, draft.failed, skipped)
    return Shelf(known, tuple(pool), draft.jobs_by_row, tuple(draft.cells), *told)


def submission(known: Known, row: int, cache: AnswerCache, stored: Stored) -> Submission:
    """A stored answer to a prompt of the table, as it is handed in for a verdict."""
    meta = meta_of(known.told("meta", row))
    reference = meta.get("reference", known.told("reference", row))
    of = Submission(known.grid.keys[row], None, known.grid.prompts[row], reference, meta)
    return handed_in(of, cache, stored)


def dearest_first(job: Job) -> tuple[float, str, int]:
    return (-float(job.worst_usd or 0), job.card.name, job.key.sample)


class _Draft:
    """Goes through the prompts; a conversation that stands in several rows is asked about once."""

    def __init__(
        self, known: Known, pool: ModelPool, cache: AnswerCache, selection: Selection
    ) -> None:
        self.known, self.pool, self.cache, self.selection = known, pool, cache, selection
        self.jobs_by_row: dict[int, list[Job]] = {}
        self.cells: list[Cell] = []
        self.cached: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.skipped: dict[str, Counter[str]] = {}
        self._jobs: dict[AnswerKey, tuple[int, int]] = {}
        self._outputs = [
            TYPICAL_OUTPUT_TOKENS if np.isnan(mean) else int(mean) for mean in known.output_tokens
        ]

    def look_at(self, row: int) -> None:
        known = self.known
        missing = {
            card.name for j, card in enumerate(self.pool) if np.isnan(known.grid.score[row, j])
        }
        wanted = [card for card in self.pool if card.name in missing or self.selection.rescore]
        if not wanted:
            return
        try:
            conversation = conversation_of(
                known.grid.prompts[row], meta_of(known.told("meta", row))
            )
        except UnaskableError as error:
            for name in missing:
                self._skip(name, str(error))
            return
        size = prompt_size(conversation.messages, conversation.tools)
        removed = removed_cards(self.pool, conversation, size)
        for card in wanted:
            if card.name not in removed:
                self._cell(row, card, conversation, size, card.name in missing)
            elif card.name in missing:
                self._skip(card.name, removed[card.name])

    def _skip(self, card: str, reason: str) -> None:
        # A reason with a figure in it is one reason.
        self.skipped.setdefault(card, Counter())[reason.partition(":")[0]] += 1

    def _cell(
        self,
        row: int,
        card: ModelCard,
        conversation: Conversation,
        size: PromptSize,
        missing: bool,
    ) -> None:
        limit = answer_limit(card, self.selection.max_tokens, size.likely)
        base = key_base(conversation, card)
        keys = tuple(AnswerKey(base, sample, limit) for sample in range(self.selection.repeat))
        found = [self.cache.find(key) for key in keys]
        # An answer that the table has by itself lacks a score, not a call.
        ask = missing and not self.known.answered[row, self.known.grid.cards.index(card.name)]
        if not ask and not any(found):
            return
        self.cells.append(Cell(row, card, keys))
        for key, stored in zip(keys, found, strict=True):
            if stored is not None and stored.error is None:
                self.cached[card.name] += 1
            elif stored is not None and not self.selection.retry_failed:
                self.failed[card.name] += 1
            elif ask:
                self._job(row, card, key, conversation, size)

    def _job(
        self,
        row: int,
        card: ModelCard,
        key: AnswerKey,
        conversation: Conversation,
        size: PromptSize,
    ) -> None:
        if key in self._jobs:
            first, at = self._jobs[key]
            job = self.jobs_by_row[first][at]
            self.jobs_by_row[first][at] = dataclasses.replace(job, rows=(*job.rows, row))
            return
        bound = size.bound_for(card)
        outputs = min(self._outputs[self.known.grid.cards.index(card.name)], key.max_tokens)
        mean = card.estimate_usd(size.likely, outputs)
        jobs = self.jobs_by_row.setdefault(row, [])
        self._jobs[key] = (row, len(jobs))
        jobs.append(
            Job(
                group=-1,
                rows=(row,),
                card=card,
                key=key,
                conversation=conversation,
                prompt_tokens_max=bound,
                worst_usd=worst_case(card, bound, key.max_tokens),
                mean_usd=None if mean is None else float(mean),
            )
        )


def removed_cards(
    pool: ModelPool, conversation: Conversation, size: PromptSize
) -> Mapping[str, str]:
    """Cards that can't take a conversation, and the rule that says so: routing's own rules."""
    needs = size.needs | {"tools"} if conversation.tools else size.needs
    request = RouteRequest(
        messages=conversation.messages,
        tools=conversation.tools,
        needs=needs,
        prompt_tokens=size.likely,
    )
    try:
        return constraints.texts(constraints.apply(pool, request, lambda card: False).removed)
    except NoCandidateError as error:
        return error.removed


def chosen_pool(pool: ModelPool, cards: Sequence[str] | None) -> ModelPool:
    """The pool, or only some of its cards.

    Raises:
        BackfillError: a card that is not there.
    """
    if cards is None:
        return pool
    unknown = [name for name in cards if name not in pool]
    if unknown:
        raise BackfillError(
            f"--cards names {unknown[0]!r}, which is no card; cards: {', '.join(pool.names)}"
        )
    return ModelPool([card for card in pool if card.name in cards])
