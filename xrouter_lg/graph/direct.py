"""A request from its messages to its answer, in one coroutine: no nodes, no checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager, AsyncCallbackManagerForChainRun
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import patch_config, var_child_runnable_config

from xrouter_lg.calls.attempt import CallResult
from xrouter_lg.calls.told.token_sink import TokenSink
from xrouter_lg.graph.asking import RUN_NAME, RequestSteps, SoFar, now
from xrouter_lg.graph.calling.calls import Planned
from xrouter_lg.graph.next_step import Finish, NextCall
from xrouter_lg.graph.state import result_to_dict
from xrouter_lg.graph.turn import Turn
from xrouter_lg.tracing.runs.extract import COLLECT, ROLE_KEY
from xrouter_lg.types import PlannedCall, RouteRequest


@dataclass(frozen=True, slots=True)
class OwnRun:
    """What the chat model itself brings to every run of its own."""

    callbacks: Any = None
    verbose: bool = False
    tags: Sequence[str] | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class AnswerLimits:
    """What an app allows an answer, whatever a provider calls it."""

    temperature: float | None = None
    """Where the policy sets none."""
    max_tokens: int | None = None

    def on(self, planned: Planned) -> Planned:
        call, context = planned
        if context.hedge is not None:
            beside = self._of(PlannedCall.from_dict(context.hedge["call"]))
            context = replace(context, hedge={**context.hedge, "call": beside.to_dict()})
        return self._of(call), context

    def _of(self, call: PlannedCall) -> PlannedCall:
        if self.temperature is not None and call.temperature is None:
            call = replace(call, temperature=self.temperature)
        if self.max_tokens is not None:
            allowed = [n for n in (call.max_tokens, self.max_tokens) if n is not None]
            call = replace(call, max_tokens=min(allowed))
        return call


class DirectRequest:
    """One request. Its runs have the shape of the graph's: a chain with the router's name, the
    workers' runs below it, and a last one that holds the answer with its record."""

    def __init__(
        self,
        asking: RequestSteps,
        messages: Sequence[BaseMessage],
        config: RunnableConfig,
        limits: AnswerLimits | None = None,
        sink: TokenSink | None = None,
        cards: Sequence[str] | None = None,
    ) -> None:
        self._asking, self._messages, self._config = asking, messages, config
        self._limits, self._sink, self._cards = limits or AnswerLimits(), sink, cards
        self._turns: list[Turn] = []
        self._results: list[CallResult] = []

    async def answer(self, own: OwnRun = OwnRun()) -> AIMessage:
        """The answer with its record, as a run of the router's name.

        Raises:
            RequestError, BudgetExceededError, AllCandidatesFailedError, StreamInterruptedError: see
                :mod:`xrouter_lg.errors`.
        """
        config = self._config
        manager = AsyncCallbackManager.configure(
            config.get("callbacks"),
            own.callbacks,
            own.verbose,
            config.get("tags"),
            list(own.tags or ()),
            config.get("metadata"),
            dict(own.metadata or {}),
        )
        run = await manager.on_chain_start(
            None,
            {"messages": list(self._messages)},
            name=config.get("run_name") or RUN_NAME,
            run_id=config.get("run_id"),
        )
        # Policies look for the running config in the context, as LangGraph leaves it there.
        self._config = patch_config(config, callbacks=run.get_child())
        token = var_child_runnable_config.set(self._config)
        try:
            message = await self._collected(await self._steps(), run)
        except BaseException as error:
            await run.on_chain_error(error)
            raise
        finally:
            with suppress(ValueError):  # closed from elsewhere: the context is gone anyway
                var_child_runnable_config.reset(token)
        await run.on_chain_end({"messages": [message]})
        return message

    async def _steps(self) -> Finish:
        asking, started = self._asking, now()
        pool = asking.router.pool
        shown: list[BaseMessage] = []
        so_far = SoFar(self._turns, self._results, shown)

        cards = pool.names if self._cards is None else self._cards

        def request() -> RouteRequest:
            most = self._limits.max_tokens
            return asking.request(self._messages, self._config, pool, so_far, cards, most)

        while True:
            asked, turn = await asking.decide(request(), pool, started, so_far, self._config)
            self._turns.append(turn)
            shown[:] = asked.router_messages
            planned = asking.first_calls(turn, asked, pool, self._results)
            await self._call(planned)
            step = asking.follow(so_far, pool, request, self._config)
            while isinstance(step, NextCall):
                following = asking.next_call(step.call, turn, request(), pool, self._results)
                await self._call([following])
                step = asking.follow(so_far, pool, request, self._config)
            if isinstance(step, Finish):
                return step

    async def _call(self, planned: Sequence[Planned]) -> None:
        metadata = {**(self._config.get("metadata") or {}), ROLE_KEY: "call"}
        config: RunnableConfig = {**self._config, "metadata": metadata}
        calls = [
            self._asking.call(self._limits.on(call), self._messages, config, self._sink)
            for call in planned
        ]
        if len(calls) == 1:
            self._results += await calls[0]
        elif calls:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(call) for call in calls]
            self._results += [result for task in tasks for result in task.result()]

    async def _collected(self, finish: Finish, run: AsyncCallbackManagerForChainRun) -> AIMessage:
        so_far = SoFar(self._turns, self._results)
        manager = run.get_child()
        if not manager.handlers:
            return await self._asking.answer(finish, so_far, self._messages, self._config)
        manager.add_metadata({ROLE_KEY: COLLECT})
        state = {
            "messages": list(self._messages),
            "xrouter_turns": [turn.to_dict() for turn in self._turns],
            "xrouter_results": [result_to_dict(result) for result in self._results],
        }
        last = await manager.on_chain_start(None, state, name=COLLECT)
        config = patch_config(self._config, callbacks=last.get_child())
        try:
            message = await self._asking.answer(finish, so_far, self._messages, config)
        except BaseException as error:
            await last.on_chain_error(error)
            raise
        await last.on_chain_end({"messages": [message]})
        return message
