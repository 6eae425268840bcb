"""A supervisor and two agents, each with a router of its own: who leads need not be who works.

    $ python -m graphs.supervisor_team
    supervisor (large): hands over to counter
    counter (small): 12 apples
    supervisor (large): hands over to writer
    writer (large): We have twelve fine apples for you.
    supervisor (large): We have twelve fine apples for you.

With ``XROUTER_POOL=pool.yaml`` your models answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from graphs.shared import Options, pool_of
from xrouter_lg import ModelPool, add_router


def counter() -> None:
    """Hand over to the one who counts."""


def writer() -> None:
    """Hand over to the one who writes."""


def hand_over(state: MessagesState) -> Command[Any]:
    """Go where the supervisor says; without such a word it has answered."""
    said = state["messages"][-1]
    if not isinstance(said, AIMessage) or not said.tool_calls:
        return Command(goto=END)
    first = said.tool_calls[0]["name"]
    told = [ToolMessage(f"{first} is at work", tool_call_id=c["id"]) for c in said.tool_calls]
    return Command(goto=first, update={"messages": told})


def build(pool: ModelPool) -> Any:
    """The compiled team. Each policy is that agent's own: a name, a checkpoint, a function."""
    builder = StateGraph(MessagesState, context_schema=Options)
    builder.add_node("hand_over", hand_over, destinations=("counter", "writer", END))
    policies = {"supervisor": "fixed:large", "counter": "cheapest", "writer": "fixed:large"}
    for name, policy in policies.items():
        leads = name == "supervisor"
        add_router(
            builder,
            pool,
            name=name,
            prefix=f"{name}_",
            policy=policy,
            tools=[counter, writer] if leads else (),
            then="hand_over" if leads else "supervisor",
        )
    builder.add_edge(START, "supervisor")
    return builder.compile()


def scripted_large(messages: Sequence[BaseMessage]) -> AIMessage:
    """The supervisor and the writer, by what has happened so far."""
    calls = [c["name"] for m in messages if isinstance(m, AIMessage) for c in m.tool_calls]
    if len(calls) < 2:
        name = ("counter", "writer")[len(calls)]
        return AIMessage("", tool_calls=[{"name": name, "args": {}, "id": name}])
    return AIMessage("We have twelve fine apples for you.")


graph = build(pool_of(lambda messages: "12 apples", scripted_large))

if __name__ == "__main__":
    asked = {"messages": [HumanMessage("How many apples? Put it nicely.")]}
    for update in graph.stream(asked, stream_mode="updates"):
        for node, values in update.items():
            if node.endswith("_collect"):
                answer = values["messages"][-1]
                handed = [f"hands over to {call['name']}" for call in answer.tool_calls]
                route = answer.response_metadata["xrouter"]["route"]
                print(f"{node.removesuffix('_collect')} ({route}): {(handed or [answer.text])[0]}")
