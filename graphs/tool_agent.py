"""An agent with tools, whose model is the router: one model sees a tool loop through.

    $ python -m graphs.tool_agent
    small calls order_status({'number': 'A17'})
    tool: A17 left the warehouse on Monday
    small: Your order A17 left the warehouse on Monday.
    2 model calls, 0.00000122 USD

With ``XROUTER_POOL=pool.yaml`` your models answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from graphs.shared import Options, pool_of
from xrouter_lg import ChatXRouter, ModelPool


def order_status(number: str) -> str:
    """Where the order with this number is."""
    return f"{number} left the warehouse on Monday"


def build(pool: ModelPool) -> Any:
    """The compiled agent."""
    model = ChatXRouter(pool, policy="cheapest")
    prompt = "You help customers of a shop."
    return create_agent(model, tools=[order_status], system_prompt=prompt, context_schema=Options)


def scripted(messages: Sequence[BaseMessage]) -> AIMessage:
    """Call the tool, then tell what it said."""
    if messages[-1].type == "tool":
        return AIMessage(f"Your order {messages[-1].text}.")
    call = {"name": "order_status", "args": {"number": "A17"}, "id": "1"}
    return AIMessage("", tool_calls=[call])


def show(messages: Sequence[AnyMessage]) -> None:
    """Who did what, and the bill."""
    answers = [m for m in messages if isinstance(m, AIMessage)]
    for message in messages[1:]:
        if not isinstance(message, AIMessage):
            print(f"tool: {message.text}")
            continue
        route = message.response_metadata["xrouter"]["route"]
        for call in message.tool_calls:
            print(f"{route} calls {call['name']}({call['args']})")
        if message.text:
            print(f"{route}: {message.text}")
    usd = sum(Decimal(m.response_metadata["xrouter"]["known_cost_usd"]) for m in answers)
    print(f"{len(answers)} model calls, {usd:f} USD")


graph = build(pool_of(scripted, scripted))

if __name__ == "__main__":
    show(graph.invoke({"messages": [HumanMessage("Where is my order A17?")]})["messages"])
