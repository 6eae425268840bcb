"""A routed graph of the router's shape, without the router: what the recorder sees of it."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command, Send
from pydantic import Field

from xrouter_lg.route_record import RouteRecord
from xrouter_lg.tracing.runs.extract import annotate, run_ids

USAGE = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}


class Worker(BaseChatModel):
    """Answers at once, or fails with ``error``."""

    error: str | None = None
    delay_s: float = 0.0
    extra: dict[str, Any] = Field(default_factory=dict)

    @property
    def _llm_type(self) -> str:
        return "worker"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": "worker-1", **self.extra}

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        if self.error is not None:
            raise RuntimeError(self.error)
        message = AIMessage("fine", usage_metadata=USAGE)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any
    ) -> ChatResult:
        await asyncio.sleep(self.delay_s)
        return self._generate(messages)


def a_record(**changes: Any) -> RouteRecord:
    """A valid route record; ``changes`` replace fields."""
    charge = {
        "kind": "worker",
        "card": "small",
        "model": "worker-1",
        "attempt": 1,
        "usage": {"input_tokens": 11, "output_tokens": 7},
        "cost_usd": "0.0000012",
        "price_source": "card",
        "latency_s": 0.012,
        "served_model": None,
        "error": None,
    }
    values: dict[str, Any] = {
        "route": "small",
        "reason": "cheapest card",
        "policy": "cheapest",
        "policy_version": "1",
        "prompt_hash": None,
        "pool_fingerprint": "f00d",
        "cost_weight": 0.3,
        "scores": {"small": 0.7, "large": 0.3},
        "propensity": 0.7,
        "cost_usd": "0.0000012",
        "router_cost_usd": "0",
        "worker_cost_usd": "0.0000012",
        "known_cost_usd": "0.0000012",
        "charges": [charge],
        "fallbacks": [],
        "turns": 1,
        "latency_s": 0.0125,
        "trace_id": None,
        "run_id": None,
        "candidates": ["small", "large"],
        "removed": {},
        "served_model": None,
        "truncated": False,
        "decisions": [],
        "started_at": 1_790_000_000.25,
        "thread_id": None,
        "tenant": None,
    }
    return RouteRecord(**{**values, **changes})


class _State(TypedDict, total=False):
    messages: Annotated[list[BaseMessage], operator.add]
    results: Annotated[list[BaseMessage], operator.add]


def routed_graph(worker: Worker | None = None, *, command: bool = True, **changes: Any) -> Any:
    """The router's subgraph: route, call_small, collect. ``changes`` go to its record."""
    chat = worker or Worker()

    async def route(state: _State) -> Command[Any]:
        return Command(goto=[Send("call_small", {"messages": state["messages"]})])

    async def call_small(state: _State) -> dict[str, Any]:
        return {"results": [await chat.ainvoke(state["messages"])]}

    async def collect(state: _State, config: RunnableConfig) -> Any:
        ids = run_ids(config)
        record = a_record(run_id=ids.parent_run_id, trace_id=ids.trace_id, **changes)
        annotate(config, {"xrouter_route": record.route, "xrouter_cost_usd": record.cost_usd})
        answer = AIMessage("fine", response_metadata={"xrouter": record.to_dict()})
        update = {"messages": [answer]}
        return Command(update=update, goto=END) if command else update

    builder = StateGraph(_State)
    builder.add_node(
        "route", route, metadata={"xrouter_role": "route"}, destinations=("call_small",)
    )
    builder.add_node("call_small", call_small, metadata={"xrouter_role": "call"})
    builder.add_node("collect", collect, metadata={"xrouter_role": "collect"})
    builder.add_edge(START, "route")
    builder.add_edge("call_small", "collect")
    if not command:
        builder.add_edge("collect", END)
    return builder.compile(name="xrouter")


def app_around(router: Any, callbacks: list[Any] | None = None) -> Any:
    """An app with one node that asks the router; ``callbacks`` are attached to that node only."""

    async def model(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        inner = dict(config)
        if callbacks:
            manager = config["callbacks"].copy()
            for handler in callbacks:
                manager.add_handler(handler, inherit=True)
            inner["callbacks"] = manager
        state = await router.ainvoke({"messages": state["messages"]}, inner)
        return {"messages": state["messages"][-1:]}

    builder = StateGraph(MessagesState)
    builder.add_node("model", model)
    builder.add_edge(START, "model")
    builder.add_edge("model", END)
    return builder.compile(name="app")


def question(text: str = "hello") -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}
