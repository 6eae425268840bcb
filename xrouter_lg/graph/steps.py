"""The three steps of the router graph: route, call, collect."""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END
from langgraph.types import Command, Overwrite, Send, interrupt

from xrouter_lg.calls.attempt import CallResult
from xrouter_lg.calls.ledger import RequestAccount
from xrouter_lg.calls.money import parse_usd
from xrouter_lg.calls.tokens import ToolsSize
from xrouter_lg.calls.worker.parameters import Bound
from xrouter_lg.errors import (
    AllCandidatesFailedError,
    BudgetExceededError,
    ErrorClass,
    RequestOptionError,
    XRouterError,
)
from xrouter_lg.graph.bound import shown_tools
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
from xrouter_lg.graph.request import build_request, check_options, to_messages
from xrouter_lg.graph.state import (
    call_options,
    charges,
    live_metadata,
    pool_pin,
    read,
    result_to_dict,
    timeout_s,
    too_late,
    under_way,
    worker_config,
)
from xrouter_lg.graph.turn import Turn, TurnContext, anchor_of
from xrouter_lg.policies.rollout.shadow_runs import settled
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.portal import run_sync
from xrouter_lg.prompts.tools import observe
from xrouter_lg.routing.constraints import bound_for
from xrouter_lg.routing.router import Router
from xrouter_lg.tracing.runs.extract import annotate_request, node_run_id_of, run_ids
from xrouter_lg.types import Charge, Decision, PlannedCall, RouteRequest


@dataclass(frozen=True, slots=True)
class Names:
    """What the steps are called in a graph, and where they read and go on to."""

    cards: tuple[str, ...]
    route: str = "route"
    collect: str = "collect"
    messages_key: str = "messages"
    then: str | None = None

    def call(self, card: str) -> str:
        """The node that calls a card: the tool's name."""
        return f"call_{card}"


@dataclass(frozen=True, slots=True)
class ToolBinding:
    """The app's own tools and options (``tool_choice``, ``strict`` ...), which reach the worker's
    own ``bind_tools`` as they are; options without tools reach its ``bind``. ``needs`` are
    capabilities that a card must have beyond those that the request shows."""

    tools: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    needs: frozenset[str] = frozenset()


StepFunction = Callable[[dict[str, Any], RunnableConfig], Awaitable[Any]]


class Step(Runnable[dict[str, Any], Any]):
    """An async step that a sync graph can run too. A bare function would need a sync twin, and
    a ``RunnableLambda`` adds a run to every trace."""

    def __init__(self, name: str, function: StepFunction) -> None:
        self.name, self._function = name, function

    async def ainvoke(
        self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        return await self._function(input, config or {})

    def invoke(
        self, input: dict[str, Any], config: RunnableConfig | None = None, **kwargs: Any
    ) -> Any:
        return run_sync(self.ainvoke(input, config))


class Steps:
    """The steps, bound to a router and to the names that a graph gives them."""

    def __init__(self, router: Router, names: Names, tools: ToolBinding) -> None:
        self.router, self.names, self.tools = router, names, tools
        self._shown = shown_tools(tools.tools)
        self._measured = ToolsSize.of(self._shown)
        self._bound = Bound(tools.tools, dict(tools.options), {})
        self._costly = self._bound.costly()
        self.open = OpenRequests()

    async def route(self, state: dict[str, Any], config: RunnableConfig) -> Command[Any]:
        """Decide, and send each call on its way with its share of the budget."""
        started = time.time()
        key = self.names.messages_key
        messages = to_messages(state.get(key), key)
        turns, results = under_way(state, messages)
        begun_with = turns[0].context.pool_fingerprint if turns else pool_pin(config)
        pool = self.router.pool if begun_with is None else self.router.pool_of(begun_with)
        request = self._request(messages, config, pool, state, turns, results)

        def turn_of(decision: Decision) -> Turn:
            context = TurnContext(
                pool_fingerprint=pool.fingerprint,
                cost_weight=request.cost_weight,
                started_at=started,
                thread_id=request.thread_id,
                tenant=request.tenant,
                limit_usd=request.max_cost_usd,
                anchor=anchor_of(messages),
                request_id=request.request_id,
            )
            return Turn(decision, context)

        try:
            if request.remaining_s is not None and request.remaining_s <= 0:
                raise too_late(results)
            request, decision = await self._decide(request, pool)
        except GraphBubbleUp:
            raise
        except BaseException as error:
            undecided = turn_of(self.router.undecided(request, error))
            self.open.failed(request.request_id, config, error, [*turns, undecided], results)
            raise
        turn = turn_of(decision)
        self.open.decided(request.request_id, [*turns, turn])
        update: dict[str, Any] = {"xrouter_turns": [turn.to_dict()]}
        if request.turn > 1:
            update["router_messages"] = list(request.router_messages)
        elif state.get("xrouter_turns"):
            # Left by an earlier request of this thread that never came to its end.
            update = {
                "xrouter_turns": Overwrite([turn.to_dict()]),
                "xrouter_results": Overwrite([]),
                "router_messages": [],
            }
        if not decision.calls:
            return Command(update=update, goto=self.names.collect)
        alone = decision.final and len(decision.calls) == 1
        lone = len(decision.calls) == 1 and not others_left(
            decision, decision.calls[0], results, pool, request, self.router.circuit_open
        )
        sends = [
            self._send(
                call, messages, turn, bound_for(pool[call.card], request), alone=alone, lone=lone
            )
            for call in decision.calls
        ]
        return Command(update=update, goto=sends)

    async def call(self, payload: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        """One call to one card. A failure is a result, not an exception."""
        call = PlannedCall.from_dict(payload["xrouter_call"])
        context = payload["xrouter_context"]
        request_id = context.get("request_id")
        pool = self.router.pool_of(context["pool_fingerprint"])
        if call.card not in pool:
            detail = "the card has left the pool since the call was decided"
            result = CallResult(call.id, call.card, None, (), ErrorClass.BAD_REQUEST, detail)
        else:
            charges: list[Charge] = []
            try:
                result = await self.router.workers.call(
                    pool[call.card],
                    call,
                    payload[self.names.messages_key],
                    worker_config(config, call, context),
                    pool=pool,
                    charges=charges,
                    prompt_tokens_max=context["prompt_tokens_max"],
                    tools=self.tools.tools,
                    tool_options=self._bound.options,
                    call_options=call_options(config),
                    lone=context.get("lone"),
                    deadline=self.open.deadline(request_id, timeout_s(config)),
                )
            except BaseException as error:
                cancelled = CallResult(call.id, call.card, None, tuple(charges))
                self.open.called(request_id, cancelled)
                self.open.failed(request_id, config, error)
                raise
            self.open.called(request_id, result)
        return {"xrouter_results": [result_to_dict(result)]}

    async def collect(self, state: dict[str, Any], config: RunnableConfig) -> Any:
        """Pick the answer, ask the next candidate, or give the policy another turn."""
        turns, results = read(state)
        pool = self.router.pool_of(turns[0].context.pool_fingerprint)
        messages = state[self.names.messages_key]

        def request() -> RouteRequest:
            return self._request(messages, config, pool, state, turns, results)

        decisions = [turn.decision for turn in turns]
        request_id = turns[0].context.request_id
        deadline = self.open.deadline(request_id, timeout_s(config))
        late = deadline is not None and time.monotonic() >= deadline
        step: Finish | NextCall | NextTurn | None
        try:
            try:
                step = next_step(decisions, results, pool, request, self.router.circuit_open)
            except AllCandidatesFailedError as error:
                raise (too_late(results) if late else error) from error.__cause__
            if late and not isinstance(step, Finish):
                step = best_so_far(results)
            if step is None:
                raise too_late(results)
        except XRouterError as error:
            self.open.failed(request_id, config, error, turns, results)
            raise
        if isinstance(step, NextTurn):
            return Command(goto=self.names.route)
        if isinstance(step, NextCall):
            asked, last = request(), decisions[-1]
            lone = not others_left(last, step.call, results, pool, asked, self.router.circuit_open)
            bound = bound_for(pool[step.call.card], asked)
            send = self._send(step.call, messages, turns[-1], bound, alone=last.final, lone=lone)
            return Command(goto=[send])
        for index, turn in enumerate(turns):
            decision = await settled(turn.decision)
            if decision is not turn.decision:
                turns[index] = replace(turn, decision=decision)
        self.open.ended(request_id)
        return self._answer(step, turns, results, messages, config)

    def _answer(
        self,
        finish: Finish,
        turns: Sequence[Turn],
        results: Sequence[CallResult],
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
    ) -> Any:
        _, run_id, trace_id = run_ids(config)
        record = build_record(finish, turns, results, run_id=run_id, trace_id=trace_id)
        self.router.explorer.settle(record.known_cost_usd)
        annotate_request(
            config,
            record,
            {
                "xrouter_route": record.route,
                "xrouter_policy": record.policy,
                "xrouter_policy_version": record.policy_version,
                "xrouter_propensity": record.propensity,
                "xrouter_cost_weight": record.cost_weight,
                "xrouter_cost_usd": record.cost_usd,
                "xrouter_known_cost_usd": record.known_cost_usd,
                "xrouter_router_cost_usd": record.router_cost_usd,
                "xrouter_fallbacks": len(record.fallbacks),
                **live_metadata(record),
            },
        )
        metadata = {**finish.message.response_metadata, "xrouter": record.to_dict()}
        changes: dict[str, Any] = {"response_metadata": metadata}
        if any(message.id == finish.message.id for message in messages):
            # A cache or a proxy has repeated an id: add_messages would replace the older message
            # where it stands, and the answer would not be the last one.
            changes["id"] = f"xrouter-{uuid.uuid4()}"
        message = finish.message.model_copy(update=changes)
        update = {
            self.names.messages_key: [message],
            "xrouter_turns": Overwrite([]),
            "xrouter_results": Overwrite([]),
            "router_messages": [],
        }
        return Command(update=update, goto=self.names.then or END)

    def _request(
        self,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
        pool: ModelPool,
        state: Mapping[str, Any],
        turns: Sequence[Turn],
        results: Sequence[CallResult],
    ) -> RouteRequest:
        """The request as it stands now: turn, answers so far, money left."""
        options = call_options(config)
        costly = replace(self._bound, call=options).costly() if options else self._costly
        request = build_request(
            messages,
            config.get("configurable") or {},
            self.router,
            tools=(*self._shown, *shown_tools(options.get("tools") or ())),
            needs=self.tools.needs,
            measured=self._measured,
            default=pool.default,
            unreachable=frozenset(pool.names).difference(self.names.cards),
            bound=costly,
            overruns=self.router.workers.overruns,
            request_id=turns[0].context.request_id if turns else node_run_id_of(config),
        )
        if not turns:
            check_options(request, config.get("configurable") or {}, self.router)
        deadline = self.open.deadline(request.request_id, request.remaining_s)
        if deadline is not None:
            request = replace(request, remaining_s=deadline - time.monotonic())
        if not turns:
            return request
        # A human may have raised the limit on an earlier turn.
        request = replace(request, max_cost_usd=turns[-1].context.limit_usd)
        account = RequestAccount(request.max_cost_usd, charges(turns, results))
        shown = list(state.get("router_messages") or [])
        last = turns[-1].decision
        if last.message is not None:
            shown += observe(last.message, outcomes_of(last, results))
        return replace(
            request,
            turn=len(turns) + 1,
            answers=answers_of(results),
            router_messages=tuple(shown),
            remaining_usd=account.remaining,
        )

    async def _decide(
        self,
        request: RouteRequest,
        pool: ModelPool,
    ) -> tuple[RouteRequest, Decision]:
        """A decision; where the budget says so, a human is asked to raise a limit that is too
        low. The request comes back with the limit that holds from now on."""
        budget = self.router.budget
        try:
            return request, await self.router.decide(request, pool)
        except BudgetExceededError as error:
            if budget is None or budget.on_exceeded != "interrupt":
                raise
            assert request.remaining_usd is not None and request.max_cost_usd is not None
            granted = interrupt(
                {
                    "type": "xrouter_budget",
                    "question": "The request's budget is too low. Raise it? Resume with a new "
                    "limit in USD, or with false to refuse.",
                    "limit_usd": str(request.max_cost_usd),
                    "remaining_usd": str(request.remaining_usd),
                    "detail": str(error),
                }
            )
            if not granted:
                raise
            limit = parse_usd(granted, "the resumed budget", RequestOptionError)
            more = limit - request.max_cost_usd + request.remaining_usd
            request = replace(request, max_cost_usd=limit, remaining_usd=more)
            return request, await self.router.decide(request, pool)

    def _send(
        self,
        call: PlannedCall,
        messages: Sequence[BaseMessage],
        turn: Turn,
        prompt_tokens_max: int,
        *,
        alone: bool,
        lone: bool,
    ) -> Send:
        return Send(
            self.names.call(call.card),
            {
                self.names.messages_key: list(messages),
                "xrouter_call": call.to_dict(),
                "xrouter_context": {
                    "pool_fingerprint": turn.context.pool_fingerprint,
                    "policy": turn.decision.policy,
                    "policy_version": turn.decision.policy_version,
                    "propensity": turn.decision.propensity,
                    "prompt_tokens_max": prompt_tokens_max,
                    "alone": alone,
                    "lone": lone,
                    "request_id": turn.context.request_id,
                },
            },
        )
