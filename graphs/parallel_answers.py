"""Two models answer at once, and a third call makes one answer of both.

    $ python -m graphs.parallel_answers
    draft of large: Let the dough rest for an hour.
    draft of small: Bake it at 200 °C.
    large: Let the dough rest for an hour, then bake it at 200 °C.

With ``XROUTER_POOL=pool.yaml`` your models answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from graphs.shared import Options, pool_of
from xrouter_lg import ModelPool, add_router

TASK = "Make one answer of these drafts; leave out what is wrong."


class Answering(MessagesState, total=False):
    drafts: Annotated[list[AnyMessage], add_messages]
    prompt: list[AnyMessage]


def both(state: Answering) -> dict[str, Any]:
    """The drafts of this question in front of it, for the model that puts them together."""
    drafts = "\n".join(f"- {draft.text}" for draft in state["drafts"][-2:])
    return {"prompt": [SystemMessage(f"{TASK}\n{drafts}"), state["messages"][-1]]}


def build(pool: ModelPool) -> Any:
    """The compiled app."""
    builder = StateGraph(Answering, context_schema=Options)
    for card in ("small", "large"):
        draft = add_router(
            builder,
            pool,
            name=f"draft_{card}",
            prefix=f"draft_{card}_",
            policy=f"fixed:{card}",
            output_key="drafts",
            then="both",
        )
        builder.add_edge(START, draft)
    # Deferred: it waits for both, also where one of them had to ask another model.
    builder.add_node("both", both, defer=True)
    joined = add_router(
        builder, pool, policy="fixed:large", messages_key="prompt", output_key="messages"
    )
    builder.add_edge("both", joined)
    return builder.compile()


def scripted_large(messages: Sequence[BaseMessage]) -> str:
    """A draft, or what is made of the drafts."""
    if messages[0].type == "system":
        return "Let the dough rest for an hour, then bake it at 200 °C."
    return "Let the dough rest for an hour."


graph = build(pool_of(lambda messages: "Bake it at 200 °C.", scripted_large))

if __name__ == "__main__":
    state = graph.invoke({"messages": [HumanMessage("How do I make bread?")]})
    for draft in state["drafts"]:
        print(f"draft of {draft.response_metadata['xrouter']['route']}: {draft.text}")
    answer = state["messages"][-1]
    print(f"{answer.response_metadata['xrouter']['route']}: {answer.text}")
