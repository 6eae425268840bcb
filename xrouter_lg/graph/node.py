"""``XRouterNode``: one node for an existing LangGraph app, in the place of its model call."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.runnables.utils import ConfigurableFieldSpec
from langgraph.graph.state import CompiledStateGraph

from xrouter_lg.calls.ledger import Budget
from xrouter_lg.calls.told.stream_watch import handlers_of, with_handler
from xrouter_lg.errors import ConfigurationError, NoCandidateError, RequestError
from xrouter_lg.graph.add_router import graph_of
from xrouter_lg.graph.asking import RUN_NAME
from xrouter_lg.graph.bound import ToolBinding
from xrouter_lg.graph.drawn import DrawnNode
from xrouter_lg.graph.request import OPTION_SPECS, OUTER_KEY, to_messages
from xrouter_lg.graph.state import OPTIONS_KEY, POOL_KEY
from xrouter_lg.policies.resolve import PolicyLike
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing.exploration import Exploration
from xrouter_lg.routing.router import Router, as_router
from xrouter_lg.said import text_of
from xrouter_lg.tracing.record.recorder import Recorder
from xrouter_lg.tracing.runs.extract import RECORD_KEY
from xrouter_lg.turnstile import take_turns

_STREAM_KEYS = (
    "langgraph_node",
    "langgraph_checkpoint_ns",
    "langgraph_path",
    "langgraph_step",
    "langgraph_triggers",
    "checkpoint_ns",
)


class XRouterNode(DrawnNode):
    """Answers with one of several models, and says which, why and at what price.

    ``builder.add_node("model", XRouterNode(pool, policy="cheapest"))`` is the whole change in an
    app: the node reads ``messages``, appends one ``AIMessage``, and puts a
    :class:`~xrouter_lg.route_record.RouteRecord` as a dict into
    ``message.response_metadata["xrouter"]``, of which checkpoints keep a part. It works in sync and
    async graphs, and streams the chosen model's tokens as its own; ``get_graph(xray=True)`` and
    Studio draw its cards. Under a checkpointer a request of one turn is kept as one step, as a
    model's is; one of several turns resumes without paying twice for a call that had finished.

    ``policy``: see :func:`~xrouter_lg.policies.resolve.resolve_policy`. ``cost_weight`` (λ ≥ 0):
    score units that one reference cost is worth. ``max_turns`` above one lets a policy that can
    look at answers and go on. ``budget``: a hard limit in USD. ``messages_key`` and
    ``output_key`` adapt to other state schemas: a text under ``messages_key`` is the user's
    question, and its answer is a text too. ``traces``: a :class:`Recorder`, or the file or URL
    of a store, that keeps every request's run tree and record; left out, nothing is recorded
    beyond what LangSmith is told by its own settings. ``exploration``, a rate or an
    :class:`~xrouter_lg.routing.exploration.Exploration`: see
    :class:`~xrouter_lg.routing.router.Router`, whose defaults hold for what is left out.

    Keywords of an invocation, and those of ``node.bind(...)``, reach the chat model that answers.
    Per request, ``config["configurable"]``, or the app's ``context``, takes ``cost_weight``,
    ``quality_target``, ``allow``, ``deny``, ``max_cost_usd``, ``timeout_s`` (seconds for the
    whole request, failover included), ``hedge_after_s`` (without a first token by then, the next
    card is asked too), ``per_step`` (ask the policy inside a tool loop too, instead of staying with
    the model that called the tools), ``thread_id`` and ``tenant``.

    Raises:
        ConfigurationError: on construction, for a bad card, key, policy or option.
        RequestError, BudgetExceededError, AllCandidatesFailedError, StreamInterruptedError,
            RequestTimeoutError: on a request; see :mod:`xrouter_lg.errors`. ``record`` of the
            error is the route record, with what was paid.
    """

    def __init__(
        self,
        pool: ModelPool | Router,
        *,
        policy: PolicyLike | None = None,
        cost_weight: float | None = None,
        max_turns: int | None = None,
        budget: Budget | None = None,
        messages_key: str = "messages",
        output_key: str | None = None,
        traces: Recorder | str | Path | None = None,
        exploration: float | Exploration | None = None,
    ) -> None:
        self.router = as_router(
            pool,
            policy=policy,
            cost_weight=cost_weight,
            max_turns=max_turns,
            budget=budget,
            exploration=exploration,
        )
        if not messages_key or not isinstance(messages_key, str):
            raise ConfigurationError(f"messages_key is {messages_key!r}; it must name a state key")
        self.messages_key, self.output_key = messages_key, output_key or messages_key
        if traces is not None and not isinstance(traces, Recorder):
            traces = Recorder(traces)
        self.recorder = traces
        self.name = RUN_NAME
        self._tools = ToolBinding()
        self._compiled: tuple[tuple[str, ...], CompiledStateGraph[Any, Any, Any, Any]] | None = None

    @property
    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """The compiled router graph, for the pool's present cards."""
        return self._graph_for(self.router.pool)

    @property
    def _keeps(self) -> bool:
        """Whether the steps inside are checkpointed with the app's."""
        budget = self.router.budget
        return self.router.max_turns > 1 or (
            budget is not None and budget.on_exceeded == "interrupt"
        )

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What ``config["configurable"]`` takes, for whoever draws a form of it."""
        return list(OPTION_SPECS)

    def _graph_for(self, pool: ModelPool) -> CompiledStateGraph[Any, Any, Any, Any]:
        compiled = self._compiled
        if compiled is None or compiled[0] != pool.names:
            builder = graph_of(self.router, pool.names, self._tools)
            # One turn is asked again as a whole; what several have paid for is kept.
            graph = builder.compile(name=RUN_NAME, checkpointer=None if self._keeps else False)
            compiled = self._compiled = pool.names, graph
        return compiled[1]

    def bind_tools(self, tools: Sequence[Any], **options: Any) -> XRouterNode:
        """The same node with the app's tools bound to whichever model answers; a card without
        the capability ``tools`` is then no candidate. Tools and options (``tool_choice``,
        ``strict``, ``response_format`` ...) reach the chat model's own ``bind_tools`` as given."""
        bound = copy.copy(self)
        bound._compiled = None
        bound._tools = replace(
            self._tools, tools=tuple(tools), options=tuple(options.items()), listed=True
        )
        return bound

    def invoke(  # type: ignore[override]  # a node's input and output, not a graph's modes
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        value, messages = self._read(input)
        pool = self.router.pool
        state = self._graph_for(pool).invoke(
            {"messages": messages}, self._config(config, pool, kwargs)
        )
        return self._write(value, state)

    async def ainvoke(  # type: ignore[override]
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        value, messages = self._read(input)
        await take_turns()
        pool = self.router.pool
        state = await self._graph_for(pool).ainvoke(
            {"messages": messages}, self._config(config, pool, kwargs)
        )
        return self._write(value, state)

    def _read(self, state: Any) -> tuple[Any, list[BaseMessage]]:
        if isinstance(state, str | list | tuple | BaseMessage | PromptValue):
            raise RequestError(
                f"XRouterNode was given a {type(state).__name__}; a node takes its graph's state, "
                f"such as {{{self.messages_key!r}: [...]}}. Where a chat model is meant (agents, "
                "prompt | model | parser), use ChatXRouter"
            )
        if isinstance(state, Mapping):
            value = state.get(self.messages_key)
        else:
            value = getattr(state, self.messages_key, None)
        return value, to_messages(value, self.messages_key)

    def _write(self, value: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        message = state["messages"][-1]
        if RECORD_KEY not in message.response_metadata:
            # LangGraph passes over a call to a node that the graph no longer has.
            raise NoCandidateError(
                dict.fromkeys(
                    (turn["calls"][0]["card"] for turn in state["xrouter_turns"] if turn["calls"]),
                    "left the pool while the request was suspended; ask again",
                )
            )
        if isinstance(value, str):
            return {self.output_key: text_of(message)}
        return {self.output_key: [message]}

    def _config(
        self, config: RunnableConfig | None, pool: ModelPool, options: Mapping[str, Any]
    ) -> RunnableConfig:
        # A function node or a task need not hand its config on: it is in the context.
        merged = ensure_config(config)
        cards = len(pool.names)
        # The steps inside are none of the app's: a turn has three, each failover two more.
        merged["recursion_limit"] = 5 + self.router.max_turns * (3 + 2 * cards)
        metadata = merged.get("metadata") or {}
        configurable = {
            **(merged.get("configurable") or {}),
            POOL_KEY: pool.fingerprint,
            OPTIONS_KEY: options,
        }
        if "langgraph_node" in metadata:
            outer = {key: metadata[key] for key in _STREAM_KEYS if key in metadata}
            configurable[OUTER_KEY] = outer
        merged["configurable"] = configurable
        if self.recorder is not None and self.recorder not in handlers_of(merged):
            merged = with_handler(merged, self.recorder)
        return merged

    def __repr__(self) -> str:
        return f"XRouterNode({', '.join(self.router.pool.names)}; {self.router.policy.name})"
