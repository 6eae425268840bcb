"""A row of the prompts table as the conversation that is asked again, and its digest.

``meta["messages"]`` is the whole conversation, system prompt and tool results included; without
it the prompt's text is the only message. ``meta["tools"]`` are the tools that were bound, in any
form that ``bind_tools`` takes as a mapping, ``meta["tool_options"]`` further arguments of
``bind_tools`` (``tool_choice``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    convert_to_messages,
)

from xrouter_lg.errors import XRouterError
from xrouter_lg.said import plain_message


class UnaskableError(XRouterError, ValueError):
    """A row's conversation can't be asked again as it was; says why."""


@dataclass(frozen=True)
class Conversation:
    """Messages and tools of one request. Equal conversations have equal digests, whatever ids,
    usage figures or other traces of their first answer were recorded with them."""

    messages: tuple[BaseMessage, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def digest(self) -> str:
        data: dict[str, Any] = {"messages": [_plain(message) for message in self.messages]}
        if self.tools:
            data |= {"tools": list(self.tools), "tool_options": dict(self.tool_options)}
        return digest_of(data)


def conversation_of(prompt: str, meta: Mapping[str, Any]) -> Conversation:
    """The conversation of a prompts row.

    Raises:
        UnaskableError: messages or tools that can't be read, or tool calls without the tools.
    """
    if isinstance(loop := meta.get("model_calls"), int) and loop > 1:
        raise UnaskableError(f"its answer took a loop of {loop} calls; one call is no match for it")
    raw = meta.get("messages")
    tools = meta.get("tools") or ()
    if not isinstance(tools, Sequence) or not all(isinstance(tool, Mapping) for tool in tools):
        raise UnaskableError("meta.tools is no list of mappings")
    options = meta.get("tool_options") or {}
    if not isinstance(options, Mapping):
        raise UnaskableError("meta.tool_options is no mapping")
    if not raw:
        return Conversation((HumanMessage(prompt),), tuple(tools), options)
    if not isinstance(raw, Sequence) or isinstance(raw, str):
        raise UnaskableError("meta.messages is no list of messages")
    messages = tuple(_message(value) for value in raw)
    used = any(isinstance(m, ToolMessage) or getattr(m, "tool_calls", None) for m in messages)
    if used and not tools:
        # Without them a card can't act as the first one could: the comparison would be unfair.
        raise UnaskableError("the conversation calls tools, and meta.tools does not hold them")
    return Conversation(messages, tuple(tools), options)


def digest_of(data: Any) -> str:
    """32 hex digits of JSON-like data; an object in it stands for its type."""
    text = json.dumps(data, sort_keys=True, ensure_ascii=False, default=lambda it: str(type(it)))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _message(value: Any) -> BaseMessage:
    """A message of any recorded form, without what its first answer left in it."""
    try:
        (message,) = convert_to_messages([plain_message(value) or value])
    except Exception as error:  # what LangChain raises for nonsense is of many kinds
        raise UnaskableError(f"meta.messages can't be read: {error}") from error
    return message


def _plain(message: BaseMessage) -> dict[str, Any]:
    plain: dict[str, Any] = {"type": message.type, "content": message.content}
    if message.name:
        plain["name"] = message.name
    if isinstance(message, AIMessage) and message.tool_calls:
        plain["tool_calls"] = [[c["name"], c["args"], c["id"]] for c in message.tool_calls]
    if isinstance(message, ToolMessage):
        plain["tool_call_id"] = message.tool_call_id
        if message.status == "error":
            plain["status"] = "error"
    return plain
