"""Answers from documents: one passage is read by the small model, several by the large one.

    $ python -m graphs.rag_app
    small: Parcels may be sent back within 30 days.
    large: Send the parcel back within 30 days; the money comes 5 days later.

Words in common stand for your retriever. With ``XROUTER_POOL=pool.yaml`` your models answer.
"""

from __future__ import annotations

import re
from typing import Any

from langchain_core.messages import AnyMessage, HumanMessage, SystemMessage
from langgraph.graph import START, MessagesState, StateGraph
from graphs.shared import Options, pool_of
from xrouter_lg import ModelPool, RouteRequest, add_router

PASSAGES = (
    "Returns: parcels may be sent back within 30 days.",
    "Refunds: money comes 5 days after the parcel.",
    "Opening hours: the shop is open from 9 to 17.",
)
CITED = re.compile(r"^\[\d+\]", re.MULTILINE)


class Asked(MessagesState, total=False):
    prompt: list[AnyMessage]


def words(text: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall(r"\w{5,}", text.lower())}


def retrieve(state: Asked) -> dict[str, Any]:
    """Put the passages that share a word with the question in front of it."""
    question = state["messages"][-1]
    found = [p for p in PASSAGES if words(p) & words(question.text)]
    cited = "\n".join(f"[{number}] {p}" for number, p in enumerate(found, start=1))
    return {"prompt": [SystemMessage(f"Answer from these passages alone:\n{cited}"), question]}


def by_passages(request: RouteRequest, cards: Any) -> str:
    """The policy: putting several passages together is the large model's work."""
    return "large" if len(CITED.findall(request.messages[0].text)) > 1 else "small"


def build(pool: ModelPool) -> Any:
    """The compiled app; the prompt with its passages never enters the conversation."""
    builder = StateGraph(Asked, context_schema=Options)
    builder.add_node("retrieve", retrieve)
    builder.add_edge(START, "retrieve")
    router = add_router(
        builder, pool, policy=by_passages, messages_key="prompt", output_key="messages"
    )
    builder.add_edge("retrieve", router)
    return builder.compile()


graph = build(
    pool_of(
        lambda messages: "Parcels may be sent back within 30 days.",
        lambda messages: "Send the parcel back within 30 days; the money comes 5 days later.",
    )
)

if __name__ == "__main__":
    for text in ("Until when are returns taken?", "When are refunds paid after returns?"):
        answer = graph.invoke({"messages": [HumanMessage(text)]})["messages"][-1]
        print(f"{answer.response_metadata['xrouter']['route']}: {answer.text}")
