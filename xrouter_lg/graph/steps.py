"""The three steps of the router graph: route, call, collect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import END
from langgraph.types import Command, Overwrite, Send

from xrouter_lg.calls.told.stream_watch import with_handler
from xrouter_lg.graph.asking import (
    RequestSteps,
    SoFar,
    now,
)
from xrouter_lg.graph.bound import ToolBinding
from xrouter_lg.graph.calling.calls import Planned
from xrouter_lg.graph.calling.run_ending import endings_of
from xrouter_lg.graph.direct import DirectRequest
from xrouter_lg.graph.next_step import NextCall, NextTurn
from xrouter_lg.graph.own_trace import OwnTrace
from xrouter_lg.graph.request import to_messages
from xrouter_lg.graph.state import CallContext, pool_pin, result_of, result_to_dict
from xrouter_lg.graph.turn import Turn, anchor_of
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.portal import run_sync
from xrouter_lg.routing.router import Router
from xrouter_lg.tracing.runs.extract import node_run_id_of
from xrouter_lg.types import PlannedCall, RouteRequest, shallow


@dataclass(frozen=True, slots=True)
class Names:
    """What the steps are called in a graph, and where they read and go on to."""

    cards: tuple[str, ...]
    route: str = "route"
    collect: str = "collect"
    messages_key: str = "messages"
    output_key: str = "messages"
    then: str | None = None
    prefix: str = ""
    channels: str = ""
    """What tells the private channels from those of another router in the same graph."""

    def call(self, card: str) -> str:
        """The node that calls a card: the tool's name, behind the prefix."""
        return f"{self.prefix}call_{card}"

    @property
    def turns(self) -> str:
        return f"xrouter_turns{self.channels}"

    @property
    def results(self) -> str:
        return f"xrouter_results{self.channels}"

    @property
    def shown(self) -> str:
        return f"router_messages{self.channels}"


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
        return run_sync(self.ainvoke(input, config), endings_of(config))


class Steps:
    """The steps, bound to a router and to the names that a graph gives them. ``trace`` records
    what the app's own callbacks do not."""

    def __init__(
        self, router: Router, names: Names, tools: ToolBinding, trace: OwnTrace | None = None
    ) -> None:
        self.router, self.names, self._trace = router, names, trace
        self.asking = RequestSteps(router, tools)

    async def traced(
        self, name: str, step: StepFunction, state: dict[str, Any], config: RunnableConfig
    ) -> Any:
        """A step's result, recorded where that is wanted and the app does not do it."""
        trace = self._trace
        if trace is None or trace.listens(config):
            return await step(state, config)
        if _was_sent(config) and "xrouter_call" not in state:
            # The whole request is answered in this step, as a run of its own.
            return await step(state, with_handler(config, trace.recorder))
        return await trace.step(
            name,
            self._request_id(state) or node_run_id_of(config) or name,
            state,
            config,
            lambda heard: step(state, heard),
            self.names.output_key,
        )

    def _request_id(self, state: Mapping[str, Any]) -> str | None:
        """Whose step it is; None where it is a request's first."""
        if "xrouter_context" in state:
            return CallContext(**state["xrouter_context"]).request_id
        key = self.names.messages_key
        so_far = self._under_way(state, to_messages(state.get(key), key))
        return so_far.turns[0].context.request_id if so_far.turns else None

    async def route(self, state: dict[str, Any], config: RunnableConfig) -> Command[Any]:
        """Decide, and send each call on its way with its share of the budget."""
        started = now()
        key = self.names.messages_key
        messages = to_messages(state.get(key), key)
        if _was_sent(config):
            # Several may be under way at once, and the channels hold one request.
            sent = DirectRequest(self.asking, messages, config, cards=self.names.cards)
            return self._finished(await sent.answer(), {})
        so_far = self._under_way(state, messages)
        begun_with = so_far.turns[0].context.pool_fingerprint if so_far.turns else pool_pin(config)
        pool = self.router.pool if begun_with is None else self.router.pool_of(begun_with)
        request = self._request(messages, config, pool, so_far)
        request, turn = await self.asking.decide(request, pool, started, so_far, config)
        update: dict[str, Any] = {self.names.turns: [turn.to_dict()]}
        if request.turn > 1:
            update[self.names.shown] = list(request.router_messages)
        elif state.get(self.names.turns):
            # Left by an earlier request of this thread that never came to its end.
            update = {
                self.names.turns: Overwrite([turn.to_dict()]),
                self.names.results: Overwrite([]),
                self.names.shown: [],
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
        results = await self.asking.call(planned, payload[self.names.messages_key], config)
        return {self.names.results: [result_to_dict(result) for result in results]}

    async def collect(self, state: dict[str, Any], config: RunnableConfig) -> Any:
        """Pick the answer, ask the next candidate, or give the policy another turn."""
        so_far = self._read(state)
        turn = so_far.turns[-1]
        pool = self.router.pool_of(so_far.turns[0].context.pool_fingerprint)
        messages = state[self.names.messages_key]

        def request() -> RouteRequest:
            return self._request(messages, config, pool, so_far)

        step = self.asking.follow(so_far, pool, request, config)
        if isinstance(step, NextTurn):
            return Command(goto=self.names.route)
        if isinstance(step, NextCall):
            planned = self.asking.next_call(step.call, turn, request(), pool, so_far.results)
            return Command(goto=[self._send(planned, messages)])
        cleared = {
            self.names.turns: Overwrite([]),
            self.names.results: Overwrite([]),
            self.names.shown: [],
        }
        return self._finished(await self.asking.answer(step, so_far, messages, config), cleared)

    def _finished(self, message: AIMessage, cleared: Mapping[str, Any]) -> Command[Any]:
        update = {self.names.output_key: [message], **cleared}
        return Command(update=update, goto=self.names.then or END)

    def _read(self, state: Mapping[str, Any]) -> SoFar:
        return SoFar(
            turns=[Turn.from_dict(data) for data in state.get(self.names.turns) or []],
            results=[result_of(data) for data in state.get(self.names.results) or []],
            shown=state.get(self.names.shown) or (),
        )

    def _under_way(self, state: Mapping[str, Any], messages: Sequence[BaseMessage]) -> SoFar:
        """What has happened to this request; nothing when what is there belongs to another."""
        so_far = self._read(state)
        if not so_far.turns or so_far.turns[0].context.anchor != anchor_of(messages):
            return SoFar()
        return so_far

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


def _was_sent(config: RunnableConfig) -> bool:
    """Whether the app's own ``Send`` has started the step, instead of an edge."""
    triggers = (config.get("metadata") or {}).get("langgraph_triggers") or ()
    return "__pregel_push" in triggers
