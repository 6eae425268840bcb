"""One request against a router, step by step: what every surface does, with a graph or without."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp
from langgraph.types import interrupt

from xrouter_lg.calls.attempt import CallResult
from xrouter_lg.calls.ledger import RequestAccount
from xrouter_lg.calls.money import parse_usd
from xrouter_lg.calls.sent.foreign import asked_model, has_thoughts
from xrouter_lg.calls.tokens import ToolsSize
from xrouter_lg.calls.told.token_sink import TokenSink
from xrouter_lg.calls.worker.parameters import Bound, longest_answer
from xrouter_lg.errors import (
    AllCandidatesFailedError,
    BudgetExceededError,
    RequestOptionError,
    StreamInterruptedError,
    XRouterError,
)
from xrouter_lg.graph.bound import ToolBinding, form_needed, shown_tools
from xrouter_lg.graph.calling.calls import CallSteps, Planned, call_context
from xrouter_lg.graph.next_step import (
    Finish,
    NextCall,
    NextTurn,
    answers_of,
    best_so_far,
    next_step,
    others_left,
    outcomes_of,
)
from xrouter_lg.graph.open_requests import OpenRequests
from xrouter_lg.graph.record import build_record
from xrouter_lg.graph.request import build_request, check_options, context_options
from xrouter_lg.graph.state import (
    call_options,
    metadata_of,
    out_of_money,
    timeout_s,
    too_late,
)
from xrouter_lg.graph.turn import Turn, turn_of
from xrouter_lg.policies.rollout.shadow_runs import settled
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.prompts.tools import observe
from xrouter_lg.routing.constraints import bound_for
from xrouter_lg.routing.router import Router
from xrouter_lg.tracing.runs.extract import (
    RECORD_KEY,
    annotate_request,
    node_run_id_of,
    run_ids,
)
from xrouter_lg.tracing.runs.kept import KeptRecord
from xrouter_lg.types import Charge, Decision, PlannedCall, RouteRequest

RUN_NAME = "xrouter"
"""Name of a request's run in a trace, and of the router's graph."""


@dataclass(frozen=True, slots=True)
class SoFar:
    """What has happened to a request: its turns, what its calls gave, what the router was shown."""

    turns: Sequence[Turn] = ()
    results: Sequence[CallResult] = ()
    shown: Sequence[BaseMessage] = ()

    @property
    def charges(self) -> list[Charge]:
        charges = [charge for turn in self.turns for charge in turn.decision.charges]
        return charges + [charge for result in self.results for charge in result.charges]


class RequestSteps:
    """A router with the tools that an app bound to it."""

    def __init__(self, router: Router, tools: ToolBinding) -> None:
        self.router, self.tools = router, tools
        self._shown = shown_tools(tools.tools)
        self._measured = ToolsSize.of(self._shown)
        self._bound = Bound(
            tools.tools, dict(tools.options), {}, tools.structured, tools.foreign, tools.listed
        )
        self._costly = self._bound.costly()
        self.open = OpenRequests()
        self.calls = CallSteps(router, tools, self._bound, self.open)

    def request(
        self,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
        pool: ModelPool,
        so_far: SoFar,
        cards: Sequence[str],
        max_tokens: int | None = None,
    ) -> RouteRequest:
        """The request as it stands now: turn, answers so far, money left. ``cards`` are those that
        this surface can call; ``max_tokens`` is the longest answer that it wants.

        Raises:
            RequestOptionError: a bad option, or one that names no card.
        """
        options = call_options(config)
        configurable = {**context_options(), **(config.get("configurable") or {})}
        turns = so_far.turns
        costly = replace(self._bound, call=options).costly() if options else self._costly
        request = build_request(
            messages,
            configurable,
            self.router,
            tools=(*self._shown, *shown_tools(options.get("tools") or ())),
            needs=self.tools.needs | form_needed({**self._bound.options, **options}),
            measured=self._measured,
            default=pool.default,
            unreachable=frozenset(pool.names).difference(cards),
            bound=costly,
            overruns=self.router.workers.cards.overruns,
            max_tokens=longest_answer(max_tokens, self._bound.options, options),
            request_id=turns[0].context.request_id if turns else _id_of(config),
        )
        if not turns:
            check_options(request, configurable, self.router)
        deadline = self.open.deadline(request.request_id, request.remaining_s)
        if deadline is not None:
            request = replace(request, remaining_s=deadline - time.monotonic())
        if not turns:
            return request
        # A human may have raised the limit on an earlier turn.
        request = replace(request, max_cost_usd=turns[-1].context.limit_usd)
        account = RequestAccount(request.max_cost_usd, so_far.charges)
        shown = list(so_far.shown)
        last = turns[-1].decision
        if last.message is not None:
            shown += observe(last.message, outcomes_of(last, so_far.results))
        return replace(
            request,
            turn=len(turns) + 1,
            answers=answers_of(so_far.results),
            router_messages=tuple(shown),
            remaining_usd=account.remaining,
        )

    async def decide(
        self,
        request: RouteRequest,
        pool: ModelPool,
        started_at: float,
        so_far: SoFar,
        config: RunnableConfig,
    ) -> tuple[RouteRequest, Turn]:
        """A turn; where the budget says so, a human is asked to raise a limit that is too low. The
        request comes back with the limit that holds from now on.

        Raises:
            NoCandidateError, BudgetExceededError: as :meth:`Router.decide`.
            RequestTimeoutError: the request's time is over.
        """
        try:
            if request.remaining_s is not None and request.remaining_s <= 0:
                raise too_late(so_far.results)
            if request.caps and self.router.spending is not None:
                request = await self.router.spending.within(request)
            request, decision = await self._decide(request, pool)
        except GraphBubbleUp:
            raise
        except BaseException as error:
            undecided = turn_of(self.router.undecided(request, error), request, pool, started_at)
            turns = [*so_far.turns, undecided]
            self.open.failed(request.request_id, config, error, turns, so_far.results)
            raise
        turn = turn_of(decision, request, pool, started_at)
        self.open.decided(request.request_id, [*so_far.turns, turn])
        return request, turn

    async def _decide(
        self, request: RouteRequest, pool: ModelPool
    ) -> tuple[RouteRequest, Decision]:
        budget = self.router.budget
        try:
            return request, await self.router.decide(request, pool)
        except BudgetExceededError as error:
            if budget is None or budget.on_exceeded != "interrupt" or request.short_of is not None:
                raise
            assert request.remaining_usd is not None and request.max_cost_usd is not None
            granted = _ask_human(request, error)
            if not granted:
                raise
            limit = parse_usd(granted, "the resumed budget", RequestOptionError)
            more = limit - request.max_cost_usd + request.remaining_usd
            request = replace(request, max_cost_usd=limit, remaining_usd=more)
            return request, await self.router.decide(request, pool)

    def first_calls(
        self, turn: Turn, request: RouteRequest, pool: ModelPool, results: Sequence[CallResult]
    ) -> list[Planned]:
        """The calls of a turn, each with what it is made with."""
        decision = turn.decision
        alone = decision.final and len(decision.calls) == 1
        lone = len(decision.calls) == 1 and not others_left(
            decision, decision.calls[0], results, pool, request, self.router.circuit_open
        )
        hedge = None if request.hedge_after_s is None else self.calls.hedge(turn, request, pool)
        return [
            (call, call_context(turn, bound_for(pool[call.card], request), alone, lone, hedge))
            for call in decision.calls
        ]

    def next_call(
        self,
        call: PlannedCall,
        turn: Turn,
        request: RouteRequest,
        pool: ModelPool,
        results: Sequence[CallResult],
    ) -> Planned:
        """A call in the place of a failed one, with what it is made with."""
        decision = turn.decision
        lone = not others_left(decision, call, results, pool, request, self.router.circuit_open)
        return call, call_context(turn, bound_for(pool[call.card], request), decision.final, lone)

    async def call(
        self,
        planned: Planned,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
        sink: TokenSink | None = None,
    ) -> list[CallResult]:
        """As :meth:`CallSteps.call`."""
        return await self.calls.call(planned, messages, config, sink)

    def follow(
        self, so_far: SoFar, pool: ModelPool, request: Any, config: RunnableConfig
    ) -> Finish | NextCall | NextTurn:
        """The step after the latest calls; ``request`` makes the request, where it is needed.

        Raises:
            StreamInterruptedError, AllCandidatesFailedError: as :func:`next_step`.
            RequestTimeoutError: the request's time is over, and nobody has answered.
        """
        request_id = so_far.turns[0].context.request_id
        try:
            return self._follow(so_far, pool, request, request_id, config)
        except XRouterError as error:
            self.open.failed(request_id, config, error, so_far.turns, so_far.results)
            raise

    def _follow(
        self,
        so_far: SoFar,
        pool: ModelPool,
        request: Any,
        request_id: str | None,
        config: RunnableConfig,
    ) -> Finish | NextCall | NextTurn:
        decisions, results = [turn.decision for turn in so_far.turns], so_far.results
        deadline = self.open.deadline(request_id, timeout_s(config))
        late = deadline is not None and time.monotonic() >= deadline
        step: Finish | NextCall | NextTurn | None
        try:
            step = next_step(decisions, results, pool, request, self.router.circuit_open)
        except (AllCandidatesFailedError, StreamInterruptedError) as error:
            why: XRouterError | None = None
            if isinstance(error, AllCandidatesFailedError):
                why = too_late(results) if late else out_of_money(results)
            raise (why or error) from self.open.cause(request_id)
        if late and not isinstance(step, Finish):
            step = best_so_far(results)
        if step is None:
            raise too_late(results) from self.open.cause(request_id)
        return step

    async def answer(
        self,
        finish: Finish,
        so_far: SoFar,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
    ) -> AIMessage:
        """The answer with its record; the runs above get what they are looked up by. ``config`` is
        that of a run below the router's."""
        turns = list(so_far.turns)
        for index, turn in enumerate(turns):
            decision = await settled(turn.decision)
            if decision is not turn.decision:
                turns[index] = replace(turn, decision=decision)
        self.open.ended(turns[0].context.request_id)
        _, run_id, trace_id = run_ids(config)
        record = build_record(finish, turns, so_far.results, run_id=run_id, trace_id=trace_id)
        self.router.explorer.settle(record.known_cost_usd)
        told = record.to_dict()
        annotate_request(config, record, told, metadata_of(record))
        if has_thoughts(finish.message):  # who had them must be known as long as they are
            told["model"] = asked_model(told, record.route)
        metadata = {**finish.message.response_metadata, RECORD_KEY: KeptRecord(told)}
        changes: dict[str, Any] = {"response_metadata": metadata}
        if any(message.id == finish.message.id for message in messages):
            # A cache or a proxy has repeated an id: add_messages would replace the older message
            # where it stands, and the answer would not be the last one.
            changes["id"] = f"xrouter-{uuid.uuid4()}"
        return finish.message.model_copy(update=changes)


def now() -> float:
    """Unix time in seconds, as requests are dated by."""
    return time.time()


def _ask_human(request: RouteRequest, error: BudgetExceededError) -> Any:
    question = {
        "type": "xrouter_budget",
        "question": "The request's budget is too low. Raise it? Resume with a new "
        "limit in USD, or with false to refuse.",
        "limit_usd": str(request.max_cost_usd),
        "remaining_usd": str(request.remaining_usd),
        "detail": str(error),
    }
    try:
        return interrupt(question)
    except (RuntimeError, KeyError):  # no graph is running, so that nobody could resume
        return None


def _id_of(config: RunnableConfig) -> str:
    """The node's run, which stays the same when it is resumed; without one an id of its own."""
    return node_run_id_of(config) or str(uuid.uuid4())
