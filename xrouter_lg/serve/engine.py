"""One request from its body to its answer: admitted, asked, metered, told."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.runnables import RunnableConfig

from xrouter_lg.calls.breaker import Breaker
from xrouter_lg.calls.ledger import Budget
from xrouter_lg.chat.model import ChatXRouter
from xrouter_lg.chat.options import ROUTER_MODEL, model_options
from xrouter_lg.errors import RequestOptionError
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing.router import Router
from xrouter_lg.serve.access.callers import Caller, Callers
from xrouter_lg.serve.access.keys import KeyStore
from xrouter_lg.serve.access.metering import METER, Meter, MeteredWorkers
from xrouter_lg.serve.api_errors import ApiError, as_api_error
from xrouter_lg.serve.metrics import ServerMetrics
from xrouter_lg.serve.wire.asked import AskedChat
from xrouter_lg.serve.wire.said_back import record_of
from xrouter_lg.tracing.record.recorder import Recorder
from xrouter_lg.tracing.runs.extract import RECORD_KEY
from xrouter_lg.types import Charge

_LOOPS_KEPT = 10_000


@dataclass(slots=True)
class Visit:
    """One HTTP request while it is answered."""

    endpoint: str
    caller: Caller | None
    headers: dict[str, str]
    """What the answer says beside its own headers."""
    meter: Meter
    started: float = field(default_factory=time.perf_counter)
    trace_ids: list[str] = field(default_factory=list)


class ServingEngine:
    """A chat model behind HTTP: what endpoints share. ``callers`` is None where anybody may ask."""

    def __init__(self, chat: ChatXRouter, callers: Callers | None, metrics: ServerMetrics) -> None:
        self.chat, self.callers, self.metrics = chat, callers, metrics
        self._loops: OrderedDict[tuple[str | None, str], str] = OrderedDict()

    @property
    def recorder(self) -> Recorder | None:
        """Where traces go, and feedback with them."""
        traces = self.chat.traces
        return traces if isinstance(traces, Recorder) else None

    @property
    def pool(self) -> ModelPool:
        return self.chat.router.pool

    def breaker(self, card: str) -> Breaker:
        return self.chat.router.workers.cards.breaker(f"worker:{card}")

    # --- who asks ---------------------------------------------------------------------------

    def admit(self, authorization: str | None) -> Caller | None:
        """The caller, None where the server has no keys.

        Raises:
            ApiError: 401.
        """
        return None if self.callers is None else self.callers.admit(authorization)

    def begin(self, endpoint: str, authorization: str | None) -> Visit:
        """Let a request in that will cost something.

        Raises:
            ApiError: 401 or 429.
        """
        caller = self.admit(authorization)
        headers: dict[str, str] = {}
        if caller is not None:
            assert self.callers is not None
            headers = self.callers.begin(caller)
        self.metrics.open.inc()
        return Visit(endpoint, caller, headers, Meter())

    def end(self, visit: Visit, status: int) -> None:
        """Count what was charged, whoever has left."""
        self.metrics.open.dec()
        self.metrics.charged(visit.meter.charges)
        self.metrics.ended(visit.endpoint, status, time.perf_counter() - visit.started)
        if visit.caller is not None and self.callers is not None:
            spending = self.chat.router.spending
            self.callers.spent(visit.caller, visit.meter.spent_usd, spending)

    def explained(self, visit: Visit, error: BaseException) -> ApiError:
        """The error as the client reads it."""
        told = as_api_error(error)
        told.headers = {**visit.headers, **told.headers}
        if visit.trace_ids:
            told.headers["x-xrouter-trace-id"] = visit.trace_ids[0]
        return told

    # --- what is asked ----------------------------------------------------------------------

    def options(self, asked: AskedChat, visit: Visit) -> dict[str, Any]:
        """Options of the request: the model's name, the body's own, whose it is.

        Raises:
            ApiError: 404: no such model.
        """
        try:
            named = model_options(asked.model, self.pool)
        except RequestOptionError as error:
            raise ApiError(404, str(error), code="model_not_found", param="model") from None
        options = {**asked.routing, **named}
        if asked.user:
            options["user_id"] = asked.user
        if visit.caller is None or self.callers is None:
            return options
        return {**options, **self.callers.options(visit.caller)}

    def config(self, asked: AskedChat, visit: Visit, options: dict[str, Any]) -> RunnableConfig:
        """A run's config, with a trace id of its own."""
        run_id = uuid.uuid4()
        visit.trace_ids.append(str(run_id))
        metadata = {"user_id": asked.user} if asked.user else {}
        return {"run_id": run_id, "configurable": dict(options), "metadata": metadata}

    def messages(self, asked: AskedChat, visit: Visit) -> list[BaseMessage]:
        """The messages, tool calls of this server marked with the card that made them: inside a
        tool loop it goes on, and no wire format tells who it was."""
        for message in asked.messages:
            if isinstance(message, AIMessage) and message.tool_calls:
                route = self._loops.get(_place(visit, str(message.tool_calls[0]["id"])))
                if route is not None:
                    message.response_metadata = {RECORD_KEY: {"route": route}}
        return asked.messages

    # --- the answer -------------------------------------------------------------------------

    async def answers(self, asked: AskedChat, visit: Visit) -> list[AIMessage]:
        """The choices: each a request of its own, since hardly a provider knows ``n``."""
        METER.set(visit.meter)
        options, messages = self.options(asked, visit), self.messages(asked, visit)
        configs = [self.config(asked, visit, options) for _ in range(asked.n)]
        if asked.n == 1:
            found = [await self.chat.ainvoke(messages, configs[0], **asked.keywords)]
        else:
            async with _FirstError() as group:
                tasks = [
                    group.create_task(self.chat.ainvoke(messages, config, **asked.keywords))
                    for config in configs
                ]
            found = [task.result() for task in tasks]
        for message in found:
            self.noted(visit, record_of(message), message.tool_calls)
        return found

    async def chunks(
        self, asked: AskedChat, visit: Visit
    ) -> AsyncIterator[tuple[int, AIMessageChunk]]:
        """The chunks of all choices as they come, each with its choice's index."""
        METER.set(visit.meter)
        options, messages = self.options(asked, visit), self.messages(asked, visit)
        configs = [self.config(asked, visit, options) for _ in range(asked.n)]
        if asked.n == 1:
            async for chunk in self.chat.astream(messages, configs[0], **asked.keywords):
                yield 0, chunk
            return
        ready: asyncio.Queue[tuple[int, AIMessageChunk] | None] = asyncio.Queue()

        async def read(index: int, config: RunnableConfig) -> None:
            async for chunk in self.chat.astream(messages, config, **asked.keywords):
                ready.put_nowait((index, chunk))

        async def all_of_them() -> None:
            try:
                async with _FirstError() as group:
                    for index, config in enumerate(configs):
                        group.create_task(read(index, config))
            finally:
                ready.put_nowait(None)

        task = asyncio.ensure_future(all_of_them())
        try:
            while (item := await ready.get()) is not None:
                yield item
            await task
        finally:
            task.cancel()
            await asyncio.wait([task])

    def noted(self, visit: Visit, record: Any, calls: Sequence[Any]) -> None:
        """An answer is whole: what figures and later requests need of it."""
        self.metrics.answered(record)
        router = [Charge.from_dict(c) for c in record.get("charges", ()) if c["kind"] == "router"]
        visit.meter.add(router)
        route = record.get("route")
        for call in calls:
            if route and (call_id := call.get("id")):
                self._loops[_place(visit, call_id)] = str(route)
                if len(self._loops) > _LOOPS_KEPT:
                    self._loops.popitem(last=False)

    def headers(self, visit: Visit, records: Sequence[Any]) -> dict[str, str]:
        """``x-xrouter-*``: several choices are told in their order, with commas."""
        policy = self.chat.router.policy
        found = {
            **visit.headers,
            "x-request-id": visit.trace_ids[0],
            "x-xrouter-trace-id": ",".join(visit.trace_ids),
            "x-xrouter-policy": f"{policy.name}/{policy.version}",
        }
        routes = [str(record["route"]) for record in records if record.get("route")]
        if routes:
            found["x-xrouter-route"] = ",".join(routes)
        if records and all("cost_usd" in record for record in records):
            costs = [record["cost_usd"] for record in records]
            found["x-xrouter-cost-usd"] = (
                "unknown" if None in costs else format(sum(map(Decimal, costs), Decimal(0)), "f")
            )
            found["x-xrouter-policy"] = ",".join(
                dict.fromkeys(f"{r['policy']}/{r['policy_version']}" for r in records)
            )
        return found


def _place(visit: Visit, call_id: str) -> tuple[str | None, str]:
    return (None if visit.caller is None else visit.caller.key.id), call_id


class _FirstError(asyncio.TaskGroup):
    """A group of tasks that fails with the first of its errors, not with a group of them."""

    async def __aexit__(self, *args: Any) -> None:
        try:
            await super().__aexit__(*args)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None


def routed(pool: ModelPool | str, *, keys: KeyStore | None = None, **options: Any) -> Router:
    """A router whose workers meter what they do. What a budget does not cover is refused, unless
    it says otherwise: an answer that nobody asked to be short would look like the model's own.
    Limits that name no store are counted where ``keys`` are.

    Raises:
        ConfigurationError: a bad pool, policy or option.
    """
    read = ModelPool.from_yaml(pool) if isinstance(pool, str) else pool
    given = {name: value for name, value in options.items() if value is not None}
    budget: Any = given.pop("budget", None)
    if budget is None:
        budget = Budget.from_dict({"on_exceeded": "error", **(read.budget or {})})
    if keys is not None and budget.limits and budget.store is None:
        budget = replace(budget, store=keys.spend)
    return Router(read, workers=MeteredWorkers(), budget=budget, **given)


def model_list(pool: ModelPool) -> list[dict[str, Any]]:
    """What ``/v1/models`` tells: the router, then each card."""
    cards = [
        {
            "id": card.name,
            "object": "model",
            "created": 0,
            "owned_by": card.provider or "xrouter",
            "description": card.description,
            "context_window": card.context_window,
        }
        for card in pool
    ]
    router = {"id": ROUTER_MODEL, "object": "model", "created": 0, "owned_by": ROUTER_MODEL}
    return [router, *cards]
