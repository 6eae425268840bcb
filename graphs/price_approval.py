"""A human is asked before a request may cost more than a tenth of a cent.

    $ python -m graphs.price_approval
    paused: this may cost more than 0.001 USD
    resumed with 0.01 USD: large for 0.000013 USD: Here is the plan of your house.

The price is the worst case, known before anything is paid. Under ``langgraph dev`` the question
stands in the thread. With ``XROUTER_POOL=pool.yaml`` your models answer.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command
from graphs.shared import Options, pool_of
from xrouter_lg import Budget, ModelPool, Router, add_router

LIMIT_USD = "0.001"


def build(pool: ModelPool, checkpointer: Any = None) -> Any:
    """The compiled app; whoever runs it brings a checkpointer, which keeps the paused request."""
    budget = Budget(per_request_usd=LIMIT_USD, on_exceeded="interrupt")
    # Of several cards a cheaper one that fits would answer, and nobody be asked.
    router = Router(ModelPool([pool["large"]]), "fixed:large", budget=budget)
    builder = StateGraph(MessagesState, context_schema=Options)
    builder.add_edge(START, add_router(builder, router))
    return builder.compile(checkpointer=checkpointer)


models = pool_of(lambda messages: "A sketch.", lambda messages: "Here is the plan of your house.")
graph = build(models)

if __name__ == "__main__":
    app = build(models, InMemorySaver())
    thread: RunnableConfig = {"configurable": {"thread_id": "house"}}
    asked = {"messages": [HumanMessage("Plan a house for me.")]}
    (question,) = app.invoke(asked, thread)["__interrupt__"]
    print(f"paused: this may cost more than {question.value['limit_usd']} USD")
    answer = app.invoke(Command(resume="0.01"), thread)["messages"][-1]
    record = answer.response_metadata["xrouter"]
    cost = f"{record['route']} for {record['cost_usd']} USD"
    print(f"resumed with 0.01 USD: {cost}: {answer.text}")
