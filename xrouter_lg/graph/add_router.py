"""The router as a LangGraph graph: ``route`` fans out to ``call_<card>`` nodes, ``collect`` picks.

    route ──Send──► call_a ─┐
      ▲     ──Send──► call_b ─┴─► collect ──► (answer | next candidate | route again)

Every step between two nodes can be checkpointed: a call that has finished is never paid twice.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from langchain_core.messages import AnyMessage
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict  # typing's has no JSON schema before Python 3.12

from xrouter_lg.errors import ConfigurationError
from xrouter_lg.graph.bound import ToolBinding
from xrouter_lg.graph.own_trace import OwnTrace
from xrouter_lg.graph.steps import Names, Step, StepFunction, Steps
from xrouter_lg.policies.resolve import PolicyLike
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.routing.router import Router, as_router
from xrouter_lg.tracing.record.recorder import Recorder


class RouterState(TypedDict, total=False):
    """State of the router graph. All but ``messages`` is private to it and empty when it ends."""

    messages: Annotated[list[AnyMessage], add_messages]
    router_messages: list[AnyMessage]
    """What a router model said on earlier turns, and the answers that it was shown."""
    xrouter_turns: Annotated[list[dict[str, Any]], operator.add]
    """Decisions, one a turn, JSON-safe."""
    xrouter_results: Annotated[list[dict[str, Any]], operator.add]
    """What each call gave: message or error, and its charges."""


def build_router_graph(
    router: Router | ModelPool,
    *,
    policy: PolicyLike | None = None,
    max_turns: int | None = None,
    tools: ToolBinding | Sequence[Any] = (),
) -> StateGraph[RouterState, None, RouterState, RouterState]:
    """The router as an uncompiled graph over ``messages``: compile it with the checkpointer,
    store and interrupts that you like.

    A :class:`Router` brings its own policy and turns; for a bare pool they are given here.
    ``tools``: the app's own, for whichever model answers; a :class:`ToolBinding` has options too.

    Raises:
        ConfigurationError: a bad card, policy or option.
    """
    router = as_router(router, policy=policy, max_turns=max_turns)
    return graph_of(router, router.pool.names, _binding(tools))


def graph_of(
    router: Router, cards: tuple[str, ...], tools: ToolBinding
) -> StateGraph[RouterState, None, RouterState, RouterState]:
    """The router's graph with a node for each of ``cards``."""
    builder = StateGraph(RouterState)
    names = Names(cards=cards)
    _add_steps(builder, Steps(router, names, tools=tools), RouterState)
    builder.add_edge(START, names.route)
    return builder


def add_router(
    builder: StateGraph[Any, Any, Any, Any],
    router: Router | ModelPool,
    *,
    name: str = "route",
    then: str = END,
    policy: PolicyLike | None = None,
    max_turns: int | None = None,
    messages_key: str = "messages",
    output_key: str | None = None,
    prefix: str | None = None,
    tools: ToolBinding | Sequence[Any] = (),
    traces: Recorder | str | Path | None = None,
) -> str:
    """Wire the router's nodes into your own graph, where Studio shows each of them.

    Adds ``name``, one ``call_<card>`` per card and ``<name>_collect``; draw an edge to the
    returned name, the answer goes on to ``then``. Your state needs ``messages_key``, and
    ``output_key`` where the answer goes elsewhere, with a reducer that appends
    (``add_messages``); what else the router keeps is private to its nodes. ``tools``: as of
    :func:`build_router_graph`.

    ``prefix`` stands in front of the names of the cards' nodes; left out, it is ``<name>_`` where
    another router of the same graph has such a node already. A ``Send`` to the returned name is
    answered within that node, each with the messages that were sent.

    ``traces``: as of :class:`~xrouter_lg.graph.node.XRouterNode`, each request a trace of its own.
    A ``Recorder`` in the app's ``config["callbacks"]`` sees the whole app instead; the same one in
    both places records once.

    Raises:
        ConfigurationError: a bad card, policy or option, or a key that the state does not have.
    """
    router = as_router(router, policy=policy, max_turns=max_turns)
    names = Names(
        cards=router.pool.names,
        route=name,
        collect=f"{name}_collect",
        messages_key=messages_key,
        output_key=output_key or messages_key,
        then=None if then == END else then,
        prefix=_prefix(builder, router, name) if prefix is None else prefix,
        channels="" if name == "route" else f"_{name}",
    )
    for option, key in (("messages_key", messages_key), ("output_key", names.output_key)):
        if key not in builder.channels:
            raise ConfigurationError(
                f"add_router: {option} is {key!r}, and an answer written there would be lost: the "
                f"graph's state has {', '.join(map(str, builder.channels)) or 'no keys'}"
            )
    # An own input schema brings the private channels along; the plain annotation of the
    # messages leaves the user's reducer in force.
    schema: Any = TypedDict(
        "RouterInput",
        {
            messages_key: list,  # type: ignore[misc]  # the key's name is the user's
            names.shown: list[AnyMessage],
            names.turns: Annotated[list[dict[str, Any]], operator.add],
            names.results: Annotated[list[dict[str, Any]], operator.add],
        },
        total=False,
    )
    if traces is not None and not isinstance(traces, Recorder):
        traces = Recorder(traces)
    trace = None if traces is None else OwnTrace(traces)
    _add_steps(builder, Steps(router, names, _binding(tools), trace), schema)
    return name


def _prefix(builder: StateGraph[Any, Any, Any, Any], router: Router, name: str) -> str:
    """Nothing, or the router's own name where its cards' nodes would have the names of others."""
    taken = any(card.tool_name in builder.nodes for card in router.pool)
    return f"{name}_" if taken else ""


def _binding(tools: ToolBinding | Sequence[Any]) -> ToolBinding:
    return tools if isinstance(tools, ToolBinding) else ToolBinding(tuple(tools))


def _add_steps(builder: StateGraph[Any, Any, Any, Any], steps: Steps, schema: Any) -> None:
    names = steps.names

    def step(name: str, function: StepFunction) -> Step:
        return Step(name, partial(steps.traced, name, function))

    calls = [names.call(card) for card in names.cards]
    builder.add_node(
        names.route,
        step(names.route, steps.route),
        input_schema=schema,
        metadata={"xrouter_role": "route"},
        destinations=(*calls, names.collect),
    )
    for node in calls:
        builder.add_node(
            node, step(node, steps.call), input_schema=schema, metadata={"xrouter_role": "call"}
        )
        builder.add_edge(node, names.collect)
    further = (names.route,) if steps.router.max_turns > 1 else ()
    builder.add_node(
        names.collect,
        step(names.collect, steps.collect),
        input_schema=schema,
        metadata={"xrouter_role": "collect"},
        destinations=(*calls, *further, names.then or END),
    )
