"""Who goes on inside a tool loop: the model that asked for the tools reads what they gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from xrouter_lg.tracing.runs.extract import RECORD_KEY


def caller_in_loop(
    messages: Sequence[BaseMessage], tools: Iterable[Mapping[str, Any]]
) -> str | None:
    """The card that called the tools whose results the next answer is made from.

    The history is inside a tool loop when its last AI message calls tools and every call is
    answered behind it, whatever else stands there too: a reminder, a picture of what a tool saw.
    It is another agent's loop, and so none here, when a called tool is not among ``tools``, the
    ones bound here: that is how agents hand over to each other.
    """
    place = next(
        (i for i in range(len(messages) - 1, -1, -1) if isinstance(messages[i], AIMessage)), None
    )
    if place is None:
        return None
    caller = messages[place]
    assert isinstance(caller, AIMessage)
    if not caller.tool_calls or not _all_answered(caller, messages[place + 1 :]):
        return None
    bound = {name for tool in tools if (name := _name_of(tool)) is not None}
    if any(call["name"] not in bound for call in caller.tool_calls):
        return None
    route = record_of(caller).get("route")
    return route if isinstance(route, str) else None


def in_tool_loop(messages: Sequence[BaseMessage]) -> bool:
    """Whether the next answer is made from what tools gave, whoever called them."""
    for message in reversed(messages):
        if isinstance(message, AIMessage | ToolMessage):
            return isinstance(message, ToolMessage)
    return False


def record_of(message: BaseMessage) -> Mapping[str, Any]:
    """The route record of a message that the router gave; empty for any other."""
    record = message.response_metadata.get(RECORD_KEY)
    return record if isinstance(record, Mapping) else {}


def _all_answered(caller: AIMessage, behind: Sequence[BaseMessage]) -> bool:
    answered = {message.tool_call_id for message in behind if isinstance(message, ToolMessage)}
    return bool(answered) and {call["id"] for call in caller.tool_calls} <= answered


def _name_of(tool: Mapping[str, Any]) -> str | None:
    """A tool's name, in OpenAI's format or in another provider's."""
    function = tool.get("function") or tool.get("custom")
    named = function if isinstance(function, Mapping) else tool
    name = named.get("name")
    return name if isinstance(name, str) else None
