"""The small model answers first; what a verifier refuses goes to the large one.

    $ python -m graphs.verified_cascade
    small: {"item": "tea", "count": 2}
    large: {"item": "blue paint, matt", "count": 1}

The verifier is a JSON schema (``xrouter_lg[data]``), so nobody needs to know the right answer. The
refused answer leaves the conversation; both calls stand in the trace. With
``XROUTER_POOL=pool.yaml`` your models answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import Command
from graphs.shared import Options, pool_of
from xrouter_lg import ModelPool, add_router
from xrouter_lg.verifiers.structured import JsonSchema

ORDER = JsonSchema(
    schema={
        "type": "object",
        "properties": {"item": {"type": "string"}, "count": {"type": "integer", "minimum": 1}},
        "required": ["item", "count"],
    },
)


def check(state: MessagesState) -> Command[Any]:
    """Let an answer through that the verifier takes; drop another one and ask the large model."""
    answer = state["messages"][-1]
    if ORDER.verify(answer.text, None, {}).score == 1.0:
        return Command(goto=END)
    return Command(goto="again", update={"messages": [RemoveMessage(id=str(answer.id))]})


def build(pool: ModelPool) -> Any:
    """The compiled app."""
    builder = StateGraph(MessagesState, context_schema=Options)
    builder.add_node("check", check, destinations=("again", END))
    first = add_router(
        builder, pool, name="first", prefix="first_", policy="fixed:small", then="check"
    )
    builder.add_edge(START, first)
    add_router(builder, pool, name="again", prefix="again_", policy="fixed:large")
    return builder.compile()


def scripted_small(messages: Sequence[BaseMessage]) -> str:
    """Right where the order is plain."""
    plain = "tea" in messages[-1].text
    return '{"item": "tea", "count": 2}' if plain else "One blue paint, matt."


graph = build(pool_of(scripted_small, lambda messages: '{"item": "blue paint, matt", "count": 1}'))

if __name__ == "__main__":
    for text in ("Two teas, please.", "That matt paint, in blue."):
        answer = graph.invoke({"messages": [HumanMessage(f"Write as JSON: {text}")]})["messages"][
            -1
        ]
        print(f"{answer.response_metadata['xrouter']['route']}: {answer.text}")
