"""Tool calls of a stream whose arguments were cut: LangChain closes their brackets, and an app
would run the tool with half of what the model meant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from langchain_core.messages import AIMessage, AIMessageChunk, InvalidToolCall
from langchain_core.outputs import ChatGenerationChunk

_CUT_CALLS_KEY = "cut_tool_calls"
"""Key in ``response_metadata``, until the answer is whole."""
_CALLS = frozenset({"tool_use", "tool_call", "function_call"})
_WHY = "its arguments were cut"


async def marking_cut_calls(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """A stream as it is, and behind it, where arguments of a tool call are no whole JSON object,
    a chunk that says which."""
    calling: list[AIMessageChunk] = []
    async for chunk in chunks:
        if getattr(chunk.message, "tool_call_chunks", None):
            calling.append(chunk.message)
        yield chunk
    if calling and (cut := _cut(calling)):
        marked = AIMessageChunk(content="", response_metadata={_CUT_CALLS_KEY: cut})
        yield ChatGenerationChunk(message=marked)


def _cut(calling: list[AIMessageChunk]) -> list[dict[str, Any]]:
    whole = calling[0] if len(calling) == 1 else calling[0] + calling[1:]
    return [
        {name: call[name] for name in ("name", "args", "id")}
        for call in getattr(whole, "tool_call_chunks", ())
        if not _is_whole(call["args"] or "")
    ]


def without_cut_calls(message: AIMessage) -> AIMessage:
    """The answer with its cut calls among those that can't be read, as they are of an answer that
    did not stream."""
    cut = message.response_metadata.get(_CUT_CALLS_KEY)
    if cut is None:
        return message
    ids = {call["id"] for call in cut}
    content: Any = message.content
    if isinstance(content, list):
        content = [block for block in content if not _is_call(block, ids)]
    unread = [*message.invalid_tool_calls, *map(_unread, cut)]
    kept = {k: v for k, v in message.response_metadata.items() if k != _CUT_CALLS_KEY}
    return message.model_copy(
        update={
            "content": content,
            "tool_calls": [call for call in message.tool_calls if call["id"] not in ids],
            "invalid_tool_calls": unread,
            "response_metadata": kept,
        }
    )


def _unread(call: Mapping[str, Any]) -> InvalidToolCall:
    return InvalidToolCall(
        type="invalid_tool_call", name=call["name"], args=call["args"], id=call["id"], error=_WHY
    )


def _is_whole(arguments: str) -> bool:
    if not arguments.strip():
        return True  # a tool that takes none
    try:
        return isinstance(json.loads(arguments, strict=False), dict)
    except ValueError:
        return False


def _is_call(block: Any, ids: set[Any]) -> bool:
    if not isinstance(block, Mapping) or block.get("type") not in _CALLS:
        return False
    return block.get("call_id", block.get("id")) in ids or block.get("id") in ids
