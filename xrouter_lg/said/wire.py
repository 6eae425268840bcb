"""Requests and responses in a provider's own form, as tracers of its client record them.

OpenAI's chat completions and Responses, Anthropic's messages, and the assistant's message that
other tracers make of a response. All become messages in the one form that is read elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xrouter_lg.said.message import fields_of, mapping, tool_calls_of

Fields = Mapping[str, Any]

_ASSISTANTS = frozenset({"assistant", "model", "ai", "AIMessage", "AIMessageChunk"})

_META = (
    *("id", "status", "incomplete_details", "service_tier"),
    *("stop_reason", "stop_sequence", "finish_reason"),
)
"""Fields of a response that LangChain's classes put into ``response_metadata``."""

_REST_ELSEWHERE = ("previous_response_id", "conversation")
"""Parameters by which the earlier messages stay with the provider."""


# --- what a model replied --------------------------------------------------------------------


def replies_in(outputs: Any) -> Iterator[Fields]:
    """The messages in a response, as fields that the other readers of this room take. Tokens stand
    on the first one: they are the whole response's."""
    for number, reply in enumerate(_replies(mapping(outputs))):
        if number == 0:
            yield reply
        else:
            meta = {k: v for k, v in reply["response_metadata"].items() if k != "token_usage"}
            yield {**reply, "usage_metadata": None, "response_metadata": meta}


def _replies(response: Fields) -> Iterator[dict[str, Any]]:
    if isinstance(choices := response.get("choices"), list | tuple):
        for choice in map(mapping, choices):
            if fields := fields_of(choice.get("message")):
                yield _reply(response, fields, finish_reason=choice.get("finish_reason"))
        return
    output = response.get("output")
    if isinstance(output, list | tuple) and any(_is_item(item) for item in output):
        yield _reply(response, _joined(output))
        return
    if response.get("role") in _ASSISTANTS or response.get("type") in _ASSISTANTS:
        yield _reply(response, response)
        return
    for inner in (output, response.get("message"), _last(response.get("messages"))):
        fields = fields_of(inner)
        if fields.get("role") in _ASSISTANTS or fields.get("type") in _ASSISTANTS:
            yield _reply(response, fields)
            return
        if any(name in fields for name in ("choices", "output")):
            yield from _replies(fields)
            return


def _reply(response: Fields, fields: Fields, **meta: Any) -> dict[str, Any]:
    told = {name: response[name] for name in _META if response.get(name) is not None}
    told |= {
        "model_name": response.get("model") or response.get("model_name"),
        "token_usage": response.get("usage"),
        **{name: value for name, value in meta.items() if value is not None},
        **mapping(fields.get("response_metadata")),
    }
    message = with_calls(fields)
    return {
        **message,
        "usage_metadata": fields.get("usage_metadata") or response.get("usage_metadata"),
        "response_metadata": told,
    }


def _joined(items: Sequence[Any]) -> dict[str, Any]:
    """The items of a response by OpenAI's Responses as one message."""
    content: list[Any] = []
    calls: list[dict[str, Any]] = []
    refusals: list[str] = []
    for item in map(mapping, items):
        if item.get("type") == "message":
            content += _blocks(item.get("content"))
        elif item.get("type") == "function_call":
            calls.append(_call(item))
        else:
            content.append(dict(item))
    refusals += [str(b.get("refusal")) for b in map(mapping, content) if b.get("type") == "refusal"]
    said = [block for block in content if mapping(block).get("type") != "refusal"]
    joined: dict[str, Any] = {"role": "assistant", "content": _plainest(said)}
    if calls:
        joined["tool_calls"] = calls
    if refusals:
        joined["refusal"] = "".join(refusals)
    return joined


# --- what a model was asked ------------------------------------------------------------------


def asked_in(inputs: Any) -> list[Any]:
    """The messages of a request, each in a form that :func:`plain_message` takes. None where the
    earlier ones are the provider's to know."""
    inputs = mapping(inputs)
    if any(inputs.get(name) for name in _REST_ELSEWHERE):
        return []
    messages = inputs.get("messages")
    if isinstance(messages, list | tuple):
        if messages and isinstance(messages[0], list | tuple):
            messages = messages[0]  # LangChain wraps the messages of one call in a batch of one
        asked = [plain for message in messages for plain in _asked(message)]
    else:
        asked = _items(inputs.get("input"))
    system = inputs.get("system") or inputs.get("instructions")
    if system and asked:
        asked.insert(0, {"role": "system", "content": system})
    return asked


def tools_in(inputs: Any) -> tuple[dict[str, Any], ...]:
    """The tools of a request; functions in the form of OpenAI's chat completions."""
    tools = mapping(inputs).get("tools")
    if not isinstance(tools, list | tuple):
        return ()
    return tuple(_tool(tool) for tool in tools if isinstance(tool, Mapping))


def tool_choice_in(inputs: Any) -> Any:
    """How a request's tools are to be used, as ``bind_tools`` takes it; None where not said."""
    choice = mapping(inputs).get("tool_choice")
    kind = mapping(choice).get("type")
    if kind in ("tool", "function") and isinstance(name := mapping(choice).get("name"), str):
        return name
    return kind if kind in ("auto", "any", "none") else choice


def with_calls(message: Fields) -> Fields:
    """A message with the calls that stand in its blocks, or under OpenAI's old name, as
    ``tool_calls``."""
    if message.get("tool_calls"):
        return message
    calls = [
        {"name": block.get("name"), "args": mapping(block.get("input")), "id": block.get("id")}
        for block in map(mapping, _listed(message.get("content")))
        if block.get("type") == "tool_use"
    ]
    if function := mapping(message.get("function_call")):
        calls.append({"function": function, "id": None})
    return {**message, "tool_calls": calls} if calls else message


def _asked(message: Any) -> Iterator[Any]:
    """A message of a chat. Anthropic's results of tools are blocks of the user's message."""
    if not isinstance(message, Mapping) or "role" not in message:
        yield message
        return
    content = message.get("content")
    rest = []
    for block in _listed(content):
        if mapping(block).get("type") == "tool_result":
            result = {"role": "tool", "content": _plainest(_blocks(block.get("content")))}
            result["tool_call_id"] = block.get("tool_use_id")
            yield {**result, "status": "error"} if block.get("is_error") else result
        else:
            rest.append(block)
    if len(rest) == len(_listed(content)):
        yield with_calls(message)
    elif rest:
        yield {**message, "content": rest}


def _items(given: Any) -> list[Any]:
    """The input of OpenAI's Responses: a text, or items."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    found: list[Any] = []
    for item in map(mapping, _listed(given)):
        kind = item.get("type", "message")
        if kind == "function_call":
            if not found or found[-1].get("role") != "assistant":
                found.append({"role": "assistant", "content": ""})
            found[-1] = {**found[-1], "tool_calls": [*tool_calls_of(found[-1]), _call(item)]}
        elif kind == "function_call_output":
            result = _plainest(_blocks(item.get("output")))
            found.append({"role": "tool", "content": result, "tool_call_id": item.get("call_id")})
        elif "role" in item:
            found.append({"role": item["role"], "content": _plainest(_blocks(item.get("content")))})
    return found


# --- their parts -----------------------------------------------------------------------------


def _is_item(item: Any) -> bool:
    return mapping(item).get("type") in ("message", "function_call", "reasoning")


def _blocks(content: Any) -> list[Any]:
    """Blocks of a content, those of OpenAI's Responses in the form of its chat completions."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [_block(block) for block in _listed(content)]


def _block(block: Any) -> Any:
    kind = mapping(block).get("type")
    if kind in ("input_text", "output_text"):
        return {"type": "text", "text": block.get("text") or ""}
    if kind == "input_image" and block.get("image_url"):
        return {"type": "image_url", "image_url": {"url": block["image_url"]}}
    if kind == "input_file":
        return {"type": "file", "file": {k: v for k, v in block.items() if k != "type"}}
    return block


def _plainest(blocks: list[Any]) -> Any:
    """A content of text alone as a text."""
    texts = [b.get("text") for b in map(mapping, blocks) if b.get("type") == "text"]
    if len(texts) == len(blocks) and all(isinstance(text, str) for text in texts):
        return "".join(map(str, texts))
    return blocks


def _call(item: Fields) -> dict[str, Any]:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    return tool_calls_of({"tool_calls": [{"function": function, "id": item.get("call_id")}]})[0]


def _tool(tool: Fields) -> dict[str, Any]:
    if "function" in tool or not tool.get("name"):
        return dict(tool)
    schema = tool.get("input_schema") or tool.get("parameters")
    if schema is None or tool.get("type", "custom") not in ("function", "custom"):
        return dict(tool)  # a tool of the provider's own
    function = {"name": tool["name"], "parameters": schema}
    kept = {k: tool[k] for k in ("description", "strict") if tool.get(k) is not None}
    return {"type": "function", "function": {**function, **kept}}


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _last(values: Any) -> Any:
    return values[-1] if isinstance(values, list | tuple) and values else None
