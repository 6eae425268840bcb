"""Ask a card, keep what it says for good, and let verifiers grade it: within one account.

A batch (:class:`~xrouter_lg.backfill.run.Runner`) decides itself which call is next and reserves
its money; :meth:`Asker.outcome` is for callers who want one outcome now, whether it was paid for
before or not. In either case a call is written down before it is made, and never made twice.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from langchain_core.runnables import RunnableConfig

from xrouter_lg.backfill.answer import AnswerKey, Stored, key_base
from xrouter_lg.backfill.cache import AnswerCache, unfinished_charge
from xrouter_lg.backfill.errors import BackfillError
from xrouter_lg.backfill.grader import verdict_on, verdict_usd
from xrouter_lg.calls.attempt import CallResult, CallTerms, Workers
from xrouter_lg.calls.failures import describe
from xrouter_lg.calls.ledger import RequestAccount, Reservation
from xrouter_lg.calls.money import worst_case
from xrouter_lg.calls.tokens import PromptSize
from xrouter_lg.calls.worker.parameters import Bound
from xrouter_lg.errors import ErrorClass
from xrouter_lg.outcomes.conversation import Conversation
from xrouter_lg.pool.card import DEFAULT_MAX_OUTPUT_TOKENS, ModelCard
from xrouter_lg.routing import constraints
from xrouter_lg.types import Charge, PlannedCall
from xrouter_lg.verifiers import SupportsVerify
from xrouter_lg.verifiers.grading import Grade, Submission

FOR_GOOD = frozenset(
    {
        ErrorClass.CONTEXT_LENGTH,
        ErrorClass.CONTENT_FILTER,
        ErrorClass.TRUNCATED,
        ErrorClass.EMPTY,
        ErrorClass.MALFORMED,
    }
)
"""Failures that belong to the prompt: kept, and not paid for again unless asked."""

_WORTH_REPEATING = frozenset(
    {
        ErrorClass.SERVER,
        ErrorClass.CONNECTION,
        ErrorClass.TIMEOUT,
        ErrorClass.EMPTY,
        ErrorClass.MALFORMED,
        ErrorClass.UNKNOWN,
    }
)

_LIMIT_PARAMS = (
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "num_predict",
    "max_new_tokens",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One call to make: a conversation put to a card, and the most that it may cost."""

    card: ModelCard
    key: AnswerKey
    conversation: Conversation
    prompt_tokens_max: int
    worst_usd: Decimal | None
    """None where the card's price is unknown."""

    @classmethod
    def of(cls, card: ModelCard, conversation: Conversation, size: PromptSize) -> Order:
        """``size`` of the conversation."""
        most, limit = size.bound_for(card), answer_limit(card, None, size.likely)
        return cls(
            card=card,
            key=AnswerKey(key_base(conversation, card), 0, limit),
            conversation=conversation,
            prompt_tokens_max=most,
            worst_usd=worst_case(card, most, limit),
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """How a call ended: with ``stored``, or with a failure that is not kept."""

    stored: Stored | None
    charges: tuple[Charge, ...]
    error: ErrorClass | None = None
    detail: str = ""
    retry_after_s: float | None = None
    again: bool = False
    """Whether the call is worth making once more."""


class Asker:
    """Makes calls on one account and keeps their answers in one cache. ``cards`` are where the
    price of a model that was served in another's place is looked up. One event loop only."""

    def __init__(
        self,
        cache: AnswerCache,
        account: RequestAccount,
        *,
        workers: Workers | None = None,
        cards: Iterable[ModelCard] = (),
    ) -> None:
        self.cache, self.account, self.workers = cache, account, workers or Workers()
        self.calls = 0
        """Calls made so far by this object."""
        self._cards = tuple(cards)
        self._one_at_a_time: defaultdict[AnswerKey, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def ask(self, order: Order, held: Reservation, *, may_repeat: bool = False) -> Asked:
        """Make the call that ``held`` is set aside for; its reservation is settled afterwards. A
        failure that the caller may repeat is not kept as one for good.

        Raises:
            BackfillError: the cache can't be written. No call is made that it does not know of.
        """
        # Nothing may be awaited between the intent's commit and the call.
        intent = self.cache.begin(order.card, order.worst_usd, kind="backfill", key=order.key)
        self.calls += 1
        charges: list[Charge] = []
        call = PlannedCall(
            id=f"backfill-{intent}",
            card=order.card.name,
            max_tokens=order.key.max_tokens,
            # One worst case: a further attempt only while the earlier ones were refused for free.
            allowance_usd=order.worst_usd,
        )
        config: RunnableConfig = {"tags": ["xrouter:backfill"], "callbacks": []}
        try:
            result = await self.workers.call(
                order.card,
                call,
                order.conversation.messages,
                config,
                CallTerms(
                    pool=self._cards,
                    prompt_tokens_max=order.prompt_tokens_max,
                    bound=Bound(order.conversation.tools, order.conversation.tool_options, {}),
                ),
                charges=charges,
            )
        except asyncio.CancelledError:
            paid = _as_backfill(charges)
            self.cache.end(intent, "cancelled", paid)
            self.account.settle(held, paid)
            raise
        except Exception as problem:
            # Whatever one answer holds that nobody thought of costs its own outcome, not the run.
            lost = unfinished_charge(
                "backfill", order.card.name, order.card.model_name, order.worst_usd, "malformed"
            )
            charges.append(lost)
            result, may_repeat = _unreadable(call, describe(problem)), False
        paid = _as_backfill(charges)
        if result.message is not None:
            try:
                stored = self.cache.answered(
                    intent, order.key, result.message, paid, truncated=result.truncated
                )
            except BackfillError:
                raise
            except Exception as problem:
                detail = f"the answer can't be kept: {describe(problem)}"
                result, may_repeat = _unreadable(call, detail), False
            else:
                self.account.settle(held, paid)
                return Asked(stored, paid)
        error, kept = result.error or ErrorClass.UNKNOWN, None
        again = error is ErrorClass.RATE_LIMIT or (may_repeat and error in _WORTH_REPEATING)
        if error in FOR_GOOD and not again:
            kept = self.cache.failed(
                intent, order.key, paid, error=error.value, detail=result.detail
            )
        else:
            self.cache.end(intent, "failed", paid)
        self.account.settle(held, paid)
        return Asked(kept, paid, error, result.detail, result.retry_after_s, again)

    async def outcome(
        self, order: Order, of: Submission, verifier: SupportsVerify, settings: str = ""
    ) -> tuple[Stored | None, Grade]:
        """The answer to ``order`` and the verdict on it, each found or paid for now; a failed
        verdict is tried again. Without an answer None, and the reason. ``of`` is the submission
        but for its text; ``settings`` is the digest of the verifier's.

        Raises:
            BackfillError: the cache can't be written.
            BudgetExceededError: what is left does not cover the call and its verdict.
        """
        # Whoever asks the same at once waits, and finds it.
        async with self._one_at_a_time[order.key]:
            stored = self.cache.find(order.key)
            if stored is None:
                judge = verdict_usd(verifier, of.prompt, of.reference, order.key.max_tokens)
                if order.worst_usd is None or judge is None:
                    return None, Grade(None, reason="the price of the card or judge is unknown")
                # The judge's share comes back with the call's, and no pause lies between that and
                # its being set aside again: an answer is not bought whose judge can't be paid.
                asked = await self.ask(order, self.account.reserve(order.worst_usd + judge))
                stored = asked.stored
                if stored is None:
                    return None, Grade(None, reason=f"{asked.error}: {asked.detail}")
            if stored.error is not None:
                return None, Grade(None, reason=f"{stored.error}: {stored.detail}")
            of = handed_in(of, self.cache, stored)
            found = self.cache.verdicts.find(verifier, settings, of)
            if found is None or found.score is None:
                found = await verdict_on(
                    of, verifier, settings, self.cache, self.account, key=stored.key
                )
            return stored, found

    def known(
        self, order: Order, of: Submission, verifier: SupportsVerify, settings: str = ""
    ) -> tuple[Stored, Grade] | None:
        """What :meth:`outcome` would find without paying; None where a part is missing."""
        stored = self.cache.find(order.key)
        if stored is None or stored.error is not None:
            return None
        grade = self.cache.verdicts.find(verifier, settings, handed_in(of, self.cache, stored))
        return None if grade is None else (stored, grade)


def handed_in(of: Submission, cache: AnswerCache, stored: Stored) -> Submission:
    """A submission with a stored answer's text in it, and the call that gave it."""
    call = "/".join(map(str, stored.key))
    return dataclasses.replace(of, text=cache.response_of(stored.id) or "", call=call)


def _unreadable(call: PlannedCall, detail: str) -> CallResult:
    """The result of a call whose answer broke what was to read or keep it."""
    return CallResult(call.id, call.card, None, (), ErrorClass.MALFORMED, detail)


def answer_limit(card: ModelCard, asked: int | None, prompt_tokens: int) -> int:
    """The length limit (tokens) that is sent with a call. One is always sent: without it no worst
    case would hold."""
    own = [*map(card.params.get, _LIMIT_PARAMS), card.max_output_tokens]
    limits = [value for value in own if isinstance(value, int) and value > 0]
    if not limits:
        limits.append(DEFAULT_MAX_OUTPUT_TOKENS)
    if asked is not None:
        limits.append(asked)
    if card.context_window is not None:
        room = card.context_window - prompt_tokens
        limits.append(max(constraints.LEAST_ANSWER_TOKENS, room))
    return min(limits)


def _as_backfill(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    return tuple(dataclasses.replace(charge, kind="backfill") for charge in charges)
