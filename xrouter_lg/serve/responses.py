"""``/v1/responses`` for text, images and function tools: read into what a chat completion asks.

The server keeps no conversations: what refers to an earlier response is refused.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, cast

from langchain_core.messages import AIMessage, AIMessageChunk

from xrouter_lg.serve.api_errors import bad_request
from xrouter_lg.serve.engine import ServingEngine, Visit
from xrouter_lg.serve.live import Out
from xrouter_lg.serve.wire.asked import AskedChat, is_list_of, json_object, read_chat
from xrouter_lg.serve.wire.responses_said import ResponseStream, response_body
from xrouter_lg.serve.wire.said_back import record_of

ENDPOINT = "/v1/responses"

_STATEFUL = ("previous_response_id", "conversation", "prompt")
_RENAMED = {"max_output_tokens": "max_completion_tokens"}
_READ_HERE = frozenset(
    {
        *("model", "input", "instructions", "tools", "tool_choice", "text", "reasoning"),
        *("store", "stream_options", "include", "truncation", "background", *_STATEFUL),
    }
)
_PARTS = {"input_text": "text", "output_text": "text", "text": "text"}


def read_response(body: Any) -> AskedChat:
    """A body of the Responses API.

    Raises:
        ApiError: 400, with the field's name.
    """
    body = json_object(body)
    for name in _STATEFUL:
        if body.get(name) is not None:
            raise bad_request(
                f"this server keeps no state, so that {name} means nothing to it; send the whole "
                "conversation in input",
                name,
            )
    if body.get("background"):
        raise bad_request("this server answers at once; leave background out", "background")
    chat = {_RENAMED.get(n, n): value for n, value in body.items() if n not in _READ_HERE}
    chat |= {"model": body.get("model"), "messages": _messages(body)}
    if tools := body.get("tools"):
        chat |= {"tools": _tools(tools), "tool_choice": _choice(body.get("tool_choice"))}
    chat |= _settings(body)
    return read_chat(chat, max_choices=1)


def _settings(body: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("text", "reasoning"):
        if not isinstance(body.get(name) or {}, Mapping):
            raise bad_request(f"{name} must be an object", name)
    text, reasoning = body.get("text") or {}, body.get("reasoning") or {}
    form = text.get("format") or {}
    if not isinstance(form, Mapping):
        raise bad_request("text.format must be an object", "text.format")
    if form.get("type") == "json_schema":
        schema = {name: value for name, value in form.items() if name != "type"}
        found["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.get("type") == "json_object":
        found["response_format"] = {"type": "json_object"}
    if (verbosity := text.get("verbosity")) is not None:
        found["verbosity"] = verbosity
    if (effort := reasoning.get("effort")) is not None:
        found["reasoning_effort"] = effort
    return found


def _tools(tools: Any) -> list[dict[str, Any]]:
    if not is_list_of(tools, dict):
        raise bad_request("tools must be a list of objects", "tools")
    found = []
    for place, tool in enumerate(tools):
        if tool.get("type") != "function":
            raise bad_request(
                f"tools[{place}] is of type {tool.get('type')!r}; this server takes function tools",
                f"tools[{place}].type",
            )
        function = {n: v for n, v in tool.items() if n != "type" and v is not None}
        found.append({"type": "function", "function": function})
    return found


def _choice(choice: Any) -> Any:
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    return choice


def _messages(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    given, instructions = body.get("input"), body.get("instructions")
    messages: list[dict[str, Any]] = []
    if instructions is not None:
        if not isinstance(instructions, str):
            raise bad_request("instructions must be a string", "instructions")
        messages.append({"role": "system", "content": instructions})
    if isinstance(given, str):
        return [*messages, {"role": "user", "content": given}]
    if not is_list_of(given, dict) or not given:
        raise bad_request("input must be a string or a list of items", "input")
    for place, item in enumerate(given):
        _add(messages, item, f"input[{place}]")
    if not messages:
        raise bad_request("input holds no message", "input")
    return messages


def _add(messages: list[dict[str, Any]], item: Mapping[str, Any], where: str) -> None:
    kind = item.get("type") or "message"
    if kind == "message":
        role, content = item.get("role"), item.get("content")
        messages.append({"role": role, "content": _content(content, where)})
    elif kind == "function_call":
        function = {"name": item.get("name"), "arguments": item.get("arguments")}
        call = {"id": item.get("call_id"), "type": "function", "function": function}
        before = messages[-1] if messages else {}
        if before.get("role") == "assistant":  # parallel calls are items of their own
            before.setdefault("tool_calls", []).append(call)
        else:
            messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
    elif kind == "function_call_output":
        output = _content(item.get("output"), where)
        call_id = item.get("call_id")
        messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
    elif kind != "reasoning":  # another model's thoughts are nothing to whoever answers now
        raise bad_request(f"{where} is of type {kind!r}, which this server does not take", where)


def _content(content: Any, where: str) -> Any:
    if not isinstance(content, list):
        return content
    return [_part(part, where) for part in content]


def _part(part: Any, where: str) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in _PARTS:
        return {"type": "text", "text": str(part.get("text") or "")}
    if kind == "refusal":
        return {"type": "text", "text": str(part.get("refusal") or "")}
    if kind == "input_image" and isinstance(url := part.get("image_url"), str):
        image = {"url": url, "detail": part.get("detail") or "auto"}
        return {"type": "image_url", "image_url": image}
    if kind == "input_file" and isinstance(data := part.get("file_data"), str):
        file = {"file_data": data, "filename": part.get("filename") or "file"}
        return {"type": "file", "file": file}
    raise bad_request(
        f"{where} has a part of type {kind!r}, which this server does not take", where
    )


async def respond(engine: ServingEngine, asked: AskedChat, visit: Visit, out: Out) -> None:
    """Answer one request."""
    created = int(time.time())
    if not asked.stream:
        (message,) = await engine.answers(asked, visit)
        headers = engine.headers(visit, [record_of(message)])
        await out.json(response_body(message, visit.trace_ids[0], created), headers)
        return
    chunks = cast("AsyncGenerator[tuple[int, AIMessageChunk]]", engine.chunks(asked, visit))
    stream: ResponseStream | None = None
    whole: AIMessageChunk | None = None
    async with aclosing(chunks):
        async for _, chunk in chunks:
            if stream is None:
                stream = ResponseStream(visit.trace_ids[0], created)
                engine.metrics.first_chunk(time.perf_counter() - visit.started)
                await out.start_events(engine.headers(visit, [record_of(chunk)]))
                await out.events(stream.begin(asked.model))
            whole = chunk if whole is None else whole + chunk
            if data := stream.take(chunk):
                await out.events(data)
    assert stream is not None and whole is not None
    message = _message(whole)
    engine.noted(visit, record_of(message), message.tool_calls)
    await out.events(stream.finish(response_body(message, visit.trace_ids[0], created)))
    await out.end()


def _message(whole: AIMessageChunk) -> AIMessage:
    fields = {n: getattr(whole, n) for n in AIMessage.model_fields if n != "type"}
    return AIMessage(**fields)
