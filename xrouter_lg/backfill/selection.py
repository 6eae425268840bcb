"""What a backfill will ask, in which order, and what it will cost; nothing is called for it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from xrouter_lg.backfill.asking import Order, answer_limit, handed_in
from xrouter_lg.backfill.cache import AnswerCache, AnswerKey, Stored, key_base
from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.backfill.known import Known
from xrouter_lg.backfill.value import Strategy, Weights, order_of
from xrouter_lg.calls.money import worst_case
from xrouter_lg.calls.tokens import PromptSize, prompt_size
from xrouter_lg.errors import NoCandidateError
from xrouter_lg.outcomes.conversation import Conversation, UnaskableError, conversation_of, meta_of
from xrouter_lg.pool.pool import TYPICAL_OUTPUT_TOKENS, ModelCard, ModelPool
from xrouter_lg.routing import constraints
from xrouter_lg.types import RouteRequest
from xrouter_lg.verifiers.grading import Submission


@dataclass(frozen=True)
class Selection:
    """What to ask about. ``limit`` counts prompts, in the order of their value."""

    strategy: Strategy = "value"
    weights: Weights = field(default_factory=Weights)
    seed: int = 0
    limit: int | None = None
    max_tokens: int | None = None
    """Longest answer (tokens) of every card; each card's own limit holds as well."""
    repeat: int = 1
    """Answers per prompt and card; the outcome is their mean."""
    retry_failed: bool = False
    """Ask again what failed for good."""
    rescore: bool = False
    """Take up cached answers whose outcome has a score already."""

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("max_tokens", 1), ("repeat", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise BackfillError(f"{name} is {value!r}; it must be at least {least}")
        if self.strategy not in ("value", "family", "random"):
            raise BackfillError(
                f"strategy is {self.strategy!r}; it is 'value', 'family' or 'random'"
            )


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

    def unpriced(self) -> list[str]:
        """Cards to be asked whose price is unknown."""
        return sorted({job.card.name for job in self.jobs if job.worst_usd is None})


def select_jobs(
    known: Known, pool: ModelPool, cache: AnswerCache, selection: Selection
) -> Worklist:
    """What is missing, what of it the cache has, and the rest in order.

    Raises:
        BackfillError: nothing can be asked, since every missing cell is skipped.
    """
    draft = _Draft(known, pool, cache, selection)
    for row in range(len(known)):
        draft.look_at(row)
    wanted = np.array(sorted(draft.jobs_by_row), dtype=np.int64)
    price = np.full(len(known), np.nan)
    for row, mine in draft.jobs_by_row.items():
        means = [job.mean_usd for job in mine if job.mean_usd is not None]
        price[row] = sum(means) if means else np.nan
    order = order_of(
        known,
        price,
        wanted,
        strategy=selection.strategy,
        weights=selection.weights,
        seed=selection.seed,
    )
    jobs: list[Job] = []
    for group, row in enumerate(order[: selection.limit].tolist()):
        mine = sorted(draft.jobs_by_row[row], key=_dearest_first)
        jobs += [dataclasses.replace(job, group=group) for job in mine]
    return Worklist(
        known=known,
        cards=tuple(pool),
        jobs=tuple(jobs),
        cells=tuple(draft.cells),
        cached=draft.cached,
        failed=draft.failed,
        skipped={card: dict(reasons) for card, reasons in draft.skipped.items()},
    )


def submission(known: Known, row: int, cache: AnswerCache, stored: Stored) -> Submission:
    """A stored answer to a prompt of the table, as it is handed in for a verdict."""
    meta = meta_of(known.told("meta", row))
    reference = meta.get("reference", known.told("reference", row))
    of = Submission(known.grid.keys[row], None, known.grid.prompts[row], reference, meta)
    return handed_in(of, cache, stored)


def _dearest_first(job: Job) -> tuple[float, str, int]:
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
