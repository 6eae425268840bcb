"""The agent: LangChain's ``create_agent`` with the world's tools, a short system prompt, and
solved tasks before the question, without which models of this size seldom call a tool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelCallLimitMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage

from benchmarks.agent_parts.world import tools

SYSTEM = (
    "You answer questions with the tools. Call one tool at a time and use what it returns; never "
    "guess. When you have the answer, give it alone, without a sentence around it."
)
MOST_CALLS = 6
"""Model calls of a run; a run that needs more has failed."""

_SHOWN: list[tuple[str, list[tuple[str, dict[str, Any], str]], str]] = [
    (
        "What do 2 benches and 3 rugs cost together?",
        [
            (
                "price",
                {"item": "benches"},
                "no item 'benches'. Give one item in the singular, such as 'lamp'.",
            ),
            ("price", {"item": "bench"}, "133"),
            ("price", {"item": "rug"}, "89"),
            ("calculate", {"expression": "2 * 133 + 3 * 89"}, "533"),
        ],
        "533",
    ),
    (
        "City of the manager of Lucia Rossi?",
        [
            (
                "employee",
                {"name": "Lucia Rossi"},
                "manager: Goran Horvat, city: Parma, phone: 4136",
            ),
            (
                "employee",
                {"name": "Goran Horvat"},
                "manager: Chloe Duval, city: Zagreb, phone: 4198",
            ),
        ],
        "Zagreb",
    ),
    (
        "On which weekday is it 3 days after 2026-01-05?",
        [("add_days", {"date": "2026-01-05", "days": 3}, "2026-01-08, a Thursday")],
        "Thursday",
    ),
    (
        "We sell 60 baskets. How many are left?",
        [
            ("stock", {"item": "basket"}, "64"),
            ("calculate", {"expression": "64 - 60"}, "4"),
        ],
        "4",
    ),
]


def shown() -> list[AnyMessage]:
    """The solved tasks as earlier turns of the conversation."""
    messages: list[AnyMessage] = []
    for question, steps, answer in _SHOWN:
        messages.append(HumanMessage(question))
        for name, arguments, result in steps:
            call_id = f"shown_{len(messages)}"
            call = {"name": name, "args": arguments, "id": call_id, "type": "tool_call"}
            messages.append(AIMessage("", tool_calls=[call]))
            status = "error" if result.startswith("no ") else "success"
            told = ToolMessage(result, tool_call_id=call_id, name=name, status=status)
            messages.append(told)
        messages.append(AIMessage(answer))
    return messages


def build(model: BaseChatModel, middleware: Sequence[AgentMiddleware[Any, Any, Any]] = ()) -> Any:
    """The compiled agent."""
    limit = ModelCallLimitMiddleware(run_limit=MOST_CALLS, exit_behavior="end")
    return create_agent(model, tools=tools(), system_prompt=SYSTEM, middleware=[*middleware, limit])


def ask(agent: Any, question: str) -> list[AnyMessage]:
    """What the agent does with a question: the messages behind it."""
    before = [*shown(), HumanMessage(question)]
    found = agent.invoke({"messages": before}, {"recursion_limit": 10 * MOST_CALLS})
    said: list[AnyMessage] = found["messages"][len(before) :]
    return said
