"""The three steps of the router graph: route, call, collect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import END
from langgraph.types import Command, Overwrite, Send

from xrouter_lg.calls.attempt import CallResult
from xrouter_lg.errors import ErrorClass
from xrouter_lg.graph.asking import CallContext, Planned, RequestSteps, SoFar, now
from xrouter_lg.graph.bound import ToolBinding
from xrouter_lg.graph.next_step import NextCall, NextTurn
from xrouter_lg.graph.request import to_messages
from xrouter_lg.graph.turn import Turn, anchor_of
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.portal import run_sync
from xrouter_lg.routing.router import Router
from xrouter_lg.types import Charge, PlannedCall, RouteRequest, shallow

POOL_KEY = "__xrouter_pool"
"""Key in ``configurable``: fingerprint of the pool whose cards the graph has nodes for. A pool
that is reloaded between the node and its first step would have none of them."""


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
        self.router, self.names = router, names
        self.asking = RequestSteps(router, tools)

    async def route(self, state: dict[str, Any], config: RunnableConfig) -> Command[Any]:
        """Decide, and send each call on its way with its share of the budget."""
        started = now()
        key = self.names.messages_key
        messages = to_messages(state.get(key), key)
        so_far = _under_way(state, messages)
        begun_with = so_far.turns[0].context.pool_fingerprint if so_far.turns else _pool_pin(config)
        pool = self.router.pool if begun_with is None else self.router.pool_of(begun_with)
        request = self._request(messages, config, pool, so_far)
        request, turn = await self.asking.decide(request, pool, started)
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
        if not turn.decision.calls:
            return Command(update=update, goto=self.names.collect)
        planned = self.asking.first_calls(turn, request, pool, so_far.results)
        return Command(update=update, goto=[self._send(call, messages) for call in planned])

    async def call(self, payload: dict[str, Any], config: RunnableConfig) -> dict[str, Any]:
        """One call to one card. A failure is a result, not an exception."""
        planned = (
            PlannedCall.from_dict(payload["xrouter_call"]),
            CallContext(**payload["xrouter_context"]),
        )
        result = await self.asking.call(planned, payload[self.names.messages_key], config)
        return {"xrouter_results": [result_to_dict(result)]}

    async def collect(self, state: dict[str, Any], config: RunnableConfig) -> Any:
        """Pick the answer, ask the next candidate, or give the policy another turn."""
        so_far = _read(state)
        turn = so_far.turns[-1]
        pool = self.router.pool_of(so_far.turns[0].context.pool_fingerprint)
        messages = state[self.names.messages_key]

        def request() -> RouteRequest:
            return self._request(messages, config, pool, so_far)

        step = self.asking.follow(so_far, pool, request)
        if isinstance(step, NextTurn):
            return Command(goto=self.names.route)
        if isinstance(step, NextCall):
            planned = self.asking.next_call(step.call, turn, request(), pool, so_far.results)
            return Command(goto=[self._send(planned, messages)])
        update = {
            self.names.messages_key: [await self.asking.answer(step, so_far, messages, config)],
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
        so_far: SoFar,
    ) -> RouteRequest:
        return self.asking.request(messages, config, pool, so_far, self.names.cards)

    def _send(self, planned: Planned, messages: Sequence[BaseMessage]) -> Send:
        call, context = planned
        return Send(
            self.names.call(call.card),
            {
                self.names.messages_key: list(messages),
                "xrouter_call": call.to_dict(),
                "xrouter_context": shallow(context),
            },
        )


def _pool_pin(config: RunnableConfig) -> str | None:
    pin = (config.get("configurable") or {}).get(POOL_KEY)
    return pin if isinstance(pin, str) else None


def _read(state: Mapping[str, Any]) -> SoFar:
    return SoFar(
        turns=[Turn.from_dict(data) for data in state.get("xrouter_turns") or []],
        results=[_result(data) for data in state.get("xrouter_results") or []],
        shown=state.get("router_messages") or (),
    )


def _under_way(state: Mapping[str, Any], messages: Sequence[BaseMessage]) -> SoFar:
    """What has happened to this request; nothing when what is there belongs to another."""
    so_far = _read(state)
    if not so_far.turns or so_far.turns[0].context.anchor != anchor_of(messages):
        return SoFar()
    return so_far


def result_to_dict(result: CallResult) -> dict[str, Any]:
    """JSON-safe form but for the message: what a state keeps of a call."""
    return {
        **shallow(result),
        "charges": [charge.to_dict() for charge in result.charges],
        "error": None if result.error is None else result.error.value,
    }


def _result(data: Mapping[str, Any]) -> CallResult:
    charges = tuple(Charge.from_dict(charge) for charge in data["charges"])
    error = None if data["error"] is None else ErrorClass(data["error"])
    return CallResult(**{**data, "charges": charges, "error": error})
