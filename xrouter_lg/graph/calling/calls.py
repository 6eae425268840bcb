"""The calls of a request: each with its share of the limits, its record, and where the request says
so, with another one beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.attempt import CallResult, CallTerms
from xrouter_lg.calls.spend.books import Cap
from xrouter_lg.calls.told.stream_watch import stream_watch
from xrouter_lg.calls.told.token_sink import TokenSink
from xrouter_lg.calls.worker.hedge import Lane, Race, stops
from xrouter_lg.calls.worker.parameters import Bound
from xrouter_lg.errors import BudgetExceededError, ErrorClass
from xrouter_lg.graph.bound import ToolBinding
from xrouter_lg.graph.next_step import hedge_of
from xrouter_lg.graph.open_requests import OpenRequests
from xrouter_lg.graph.request import context_options
from xrouter_lg.graph.state import CallContext, call_options, timeout_s, worker_config
from xrouter_lg.graph.turn import Turn
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing.constraints import bound_for
from xrouter_lg.routing.router import Router
from xrouter_lg.turnstile import take_turns
from xrouter_lg.types import Charge, PlannedCall, RouteRequest

Planned = tuple[PlannedCall, CallContext]


class CallSteps:
    """Makes planned calls. ``bound`` is what the app bound to every one of them."""

    def __init__(
        self, router: Router, tools: ToolBinding, bound: Bound, under_way: OpenRequests
    ) -> None:
        self.router, self.tools, self._bound, self.open = router, tools, bound, under_way

    def hedge(self, turn: Turn, request: RouteRequest, pool: ModelPool) -> Mapping[str, Any] | None:
        """What is asked beside a turn's only call where that is slow; None where nothing is."""
        beside = hedge_of(turn.decision, pool, request, self.router.circuit_open)
        if beside is None:
            return None
        both = (turn.decision.calls[0].card, beside.card)
        if not all(stops(self.router.workers.prepared(pool[name])) for name in both):
            return None  # two might show their tokens
        return {
            "call": beside.to_dict(),
            "prompt_tokens_max": bound_for(pool[beside.card], request),
            "after_s": request.hedge_after_s,
        }

    async def call(
        self,
        planned: Planned,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
        sink: TokenSink | None = None,
    ) -> list[CallResult]:
        """One call to one card, and where that is slow, and the request says so, one to another
        beside it. A failure is a result, not an exception. ``sink`` gets the answer's tokens as
        they come, where the answer is the request's."""
        call, context = planned
        hedge, sink = context.hedge, sink if context.alone else None
        after_s = None
        if hedge is not None:
            watched = stream_watch(worker_config(config, call, context)) is not None
            streams = sink is not None or watched
            after_s = self.router.workers.cards.pace.seconds(hedge["after_s"], call.card, streams)
        if hedge is None or after_s is None:
            return [await self._call(planned, messages, config, sink)]
        beside = (
            PlannedCall.from_dict(hedge["call"]),
            replace(context, prompt_tokens_max=hedge["prompt_tokens_max"], lone=False, hedge=None),
        )
        twin = None if sink is None else sink.twin()
        race = Race()
        pool = self.router.pool_of(context.pool_fingerprint)

        def good(result: CallResult) -> bool:
            cut = result.truncated and pool.on_truncated == "escalate"
            return result.message is not None and not cut

        results = await race.run(
            lambda lane: self._call(planned, messages, config, sink, lane),
            lambda lane: self._call(beside, messages, config, twin, lane),
            after_s,
            good,
        )
        if sink is not None and twin is not None and race.winner == 1:
            sink.adopt(twin)
        return results

    async def _call(
        self,
        planned: Planned,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
        sink: TokenSink | None,
        lane: Lane | None = None,
    ) -> CallResult:
        call, context = planned
        pool = self.router.pool_of(context.pool_fingerprint)
        if call.card not in pool:
            detail = "the card has left the pool since the call was decided"
            return CallResult(call.id, call.card, None, (), ErrorClass.BAD_REQUEST, detail)
        charges: list[Charge] = []
        caps, hold = self._caps(config), None
        if caps and self.router.spending is not None:
            try:
                if call.allowance_usd is not None:
                    hold = await self.router.spending.hold(caps, call.allowance_usd)
            except BudgetExceededError as error:
                refused = CallResult(
                    call.id, call.card, None, (), ErrorClass.BUDGET, str(error), short_of=error.per
                )
                self.open.called(context.request_id, refused)
                return refused
            except BaseException as error:
                if lane is not None and (lane.lost or lane.optional(error)):
                    return CallResult(call.id, call.card, None, ())  # it was made for speed alone
                self.open.failed(context.request_id, config, error)
                raise
        try:
            result = await self.router.workers.call(
                pool[call.card],
                call,
                messages,
                worker_config(config, call, context),
                CallTerms(
                    pool=pool,
                    prompt_tokens_max=context.prompt_tokens_max,
                    bound=replace(self._bound, call=call_options(config)),
                    settings=self.tools.settings,
                    lone=context.lone,
                    deadline=self.open.deadline(context.request_id, timeout_s(config)),
                ),
                charges=charges,
                sink=sink,
                lane=lane,
            )
        except BaseException as error:
            cancelled = CallResult(call.id, call.card, None, tuple(charges))
            if lane is not None and lane.lost and isinstance(error, asyncio.CancelledError):
                if lane.number == 0:
                    why = "another card, asked because it was slow, was faster"
                    cancelled = replace(cancelled, error=ErrorClass.SLOW, detail=why)
                self.open.called(context.request_id, cancelled)
                return cancelled
            self.open.called(context.request_id, cancelled)
            self.open.failed(context.request_id, config, error)
            raise
        finally:
            if caps and self.router.spending is not None:
                self.router.spending.settle(caps, hold, charges)
        self.open.called(context.request_id, result)
        await take_turns()  # answers to many come back together
        return result

    def _caps(self, config: RunnableConfig) -> tuple[Cap, ...]:
        """The limits that a call shares with those of other requests."""
        if self.router.spending is None:
            return ()
        options = {**context_options(), **(config.get("configurable") or {})}
        return self.router.spending.caps(options)


def call_context(
    turn: Turn,
    prompt_tokens_max: int,
    alone: bool,
    lone: bool,
    hedge: Mapping[str, Any] | None = None,
) -> CallContext:
    """What a call of a turn is made with."""
    decision = turn.decision
    return CallContext(
        pool_fingerprint=turn.context.pool_fingerprint,
        policy=decision.policy,
        policy_version=decision.policy_version,
        propensity=decision.propensity,
        prompt_tokens_max=prompt_tokens_max,
        alone=alone,
        lone=lone,
        request_id=turn.context.request_id,
        hedge=hedge,
    )
