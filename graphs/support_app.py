"""A small support assistant as it may stand in any code base: prepare, model, label.

``support_app_routed.py`` is the same app with routing; the two files differ in two lines.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import RemoveMessage, SystemMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES

SYSTEM = "You are a support assistant. Answer briefly and to the point."
TOPICS = {"code": ("python", "function", "code"), "account": ("password", "refund", "order")}


class Ticket(MessagesState, total=False):
    topic: str


def prepare(state: Ticket) -> dict[str, Any]:
    """Give every conversation its system prompt."""
    if state["messages"][0].type == "system":
        return {}
    # The reducer appends; starting over is how a message gets to the front.
    start_over = RemoveMessage(id=REMOVE_ALL_MESSAGES)
    return {"messages": [start_over, SystemMessage(SYSTEM), *state["messages"]]}


def label(state: Ticket) -> dict[str, Any]:
    """Sort the ticket by the words of its question."""
    question = next(m.text for m in reversed(state["messages"]) if m.type == "human").lower()
    topic = next((t for t, words in TOPICS.items() if any(w in question for w in words)), "general")
    return {"topic": topic}


def build(model: Any, **options: Any) -> Any:
    """The compiled app around a model, which is called with ``options``."""
    builder = StateGraph(Ticket)
    builder.add_node("prepare", prepare)
    builder.add_node("model", lambda s: {"messages": [model.invoke(s["messages"], **options)]})
    builder.add_node("label", label)
    builder.add_edge(START, "prepare")
    builder.add_edge("prepare", "model")
    builder.add_edge("model", "label")
    builder.add_edge("label", END)
    return builder.compile()
