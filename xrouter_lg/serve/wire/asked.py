"""From the body of a chat completion to what ``ChatXRouter`` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import orjson
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from xrouter_lg.chat.bound_tools import BoundTools
from xrouter_lg.serve.api_errors import bad_request
from xrouter_lg.serve.worker_options import BODY

ROUTING = "xrouter"
"""The body's field for options of the router."""

_KNOWN = frozenset(CompletionCreateParamsBase.__annotations__)
_READ_HERE = frozenset(
    {
        *("model", "messages", "n", "stream", "stream_options", ROUTING),
        *("tools", "tool_choice", "parallel_tool_calls"),
    }
)
ROUTING_OPTIONS = ("cost_weight", "quality_target", "allow", "deny", "max_cost_usd", "thread_id")
MOST_MESSAGES = 10_000
"""Each takes a part of a millisecond of the event loop, which all requests share."""
_SPOKEN = frozenset({"role", "content", "name", "tool_calls", "tool_call_id"})


@dataclass(frozen=True, slots=True)
class AskedChat:
    """One request, read."""

    model: str
    messages: list[BaseMessage]
    keywords: dict[str, Any]
    """For the chat model: ``temperature``, ``stop``, tools, and what rides along."""
    routing: dict[str, Any] = field(default_factory=dict)
    """Options of the request, as ``config["configurable"]`` takes them."""
    n: int = 1
    stream: bool = False
    include_usage: bool = False
    user: str | None = None


def read_chat(body: Any, *, max_choices: int) -> AskedChat:
    """A chat completion's body. Fields that nobody knows ride along to the worker.

    Raises:
        ApiError: 400, with the field's name.
    """
    body = json_object(body)
    model = text_field(body, "model")
    if not model:
        raise bad_request("you must name a model: 'xrouter', or a card's name", "model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise bad_request("messages must be a list with at least one message", "messages")
    if len(messages) > MOST_MESSAGES:
        raise bad_request(
            f"there are {len(messages)} messages; this server takes {MOST_MESSAGES} at most",
            "messages",
        )
    options = body.get("stream_options") or {}
    if not isinstance(options, Mapping):
        raise bad_request("stream_options must be an object", "stream_options")
    return AskedChat(
        model=model,
        messages=[read_message(item, f"messages[{i}]") for i, item in enumerate(messages)],
        keywords=_keywords(body),
        routing=_routing(body),
        n=_choices(body, max_choices),
        stream=flag(body, "stream"),
        include_usage=bool(options.get("include_usage")),
        user=text_field(body, "user"),
    )


def json_object(body: Any) -> dict[str, Any]:
    if not isinstance(body, dict):
        raise bad_request(f"the body must be a JSON object, not {type(body).__name__}")
    return body


def text_field(body: Mapping[str, Any], name: str) -> str | None:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_request(f"{name} must be a string, not {type(value).__name__}", name)
    return value


def flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise bad_request(f"{name} must be true or false", name)
    return bool(value)


def _choices(body: Mapping[str, Any], most: int) -> int:
    n = body.get("n")
    if n is None:
        return 1
    if isinstance(n, float) and n.is_integer():
        n = int(n)  # to JSON they are the same
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= most:
        raise bad_request(f"n must be a whole number from 1 to {most}", "n")
    return n


def _routing(body: Mapping[str, Any]) -> dict[str, Any]:
    given = body.get(ROUTING) or {}
    if not isinstance(given, Mapping):
        raise bad_request(f"{ROUTING} must be an object of the router's options", ROUTING)
    for name in given:
        if name not in ROUTING_OPTIONS:
            raise bad_request(
                f"{ROUTING} has no option {name!r}; it takes {', '.join(ROUTING_OPTIONS)}",
                f"{ROUTING}.{name}",
            )
    return {name: value for name, value in given.items() if value is not None}


def _keywords(body: Mapping[str, Any]) -> dict[str, Any]:
    """Null is as good as left out, as it is at OpenAI."""
    found: dict[str, Any] = {}
    unknown: dict[str, Any] = {}
    for name, value in body.items():
        if value is None or name in _READ_HERE:
            continue
        (found if name in _KNOWN else unknown)[name] = value
    if unknown:
        found[BODY] = unknown
    if "stop" in found and isinstance(found["stop"], str):
        found["stop"] = [found["stop"]]
    if "stop" in found and not is_list_of(found["stop"], str):
        raise bad_request("stop must be a string or a list of strings", "stop")
    temperature = found.get("temperature", 0)
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise bad_request("temperature must be a number", "temperature")
    return found | tool_keywords(body)


def is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def tool_keywords(body: Mapping[str, Any]) -> dict[str, Any]:
    """The tools as the answering model's ``bind_tools`` takes them."""
    tools = body.get("tools")
    if not tools:
        return {}
    if not is_list_of(tools, dict):
        raise bad_request("tools must be a list of objects", "tools")
    for place, tool in enumerate(tools):
        if tool.get("type") == "function" and not (
            isinstance(function := tool.get("function"), dict)
            and isinstance(function.get("name"), str)
        ):
            raise bad_request("a function tool needs function.name", f"tools[{place}]")
    options = {}
    if (choice := body.get("tool_choice")) is not None:
        options["tool_choice"] = _choice(choice)
    if (parallel := body.get("parallel_tool_calls")) is not None:
        options["parallel_tool_calls"] = parallel
    return _bound(orjson.dumps(tools), orjson.dumps(options))


@lru_cache(maxsize=64)
def _bound(tools: bytes, options: bytes) -> dict[str, Any]:
    """Made once for as long as an agent asks with the same tools: they are measured by identity."""
    read: dict[str, Any] = orjson.loads(options)
    return {**read, "tools": BoundTools(orjson.loads(tools), read)}


def _choice(choice: Any) -> Any:
    """By LangChain's words, which every provider's class knows."""
    if choice == "required":
        return "any"
    if isinstance(choice, Mapping) and choice.get("type") == "function":
        named = choice.get("function")
        name = named.get("name") if isinstance(named, Mapping) else None
        if isinstance(name, str):
            return name
    if isinstance(choice, str | dict):
        return choice
    raise bad_request("tool_choice must be a string or an object", "tool_choice")


def read_message(item: Any, where: str) -> BaseMessage:
    """One message of a body.

    Raises:
        ApiError: 400: no message of OpenAI's form.
    """
    if not isinstance(item, dict):
        raise bad_request(f"{where} must be an object", where)
    role, content = item.get("role"), item.get("content")
    named: dict[str, Any] = {}
    if (name := item.get("name")) is not None:
        if not isinstance(name, str):
            raise bad_request(f"{where}.name must be a string", f"{where}.name")
        named["name"] = name
    if role == "assistant":
        return _assistant(item, _content(content or "", where), named, where)
    content = _content(content, where)
    if role == "user":
        return HumanMessage(content, **named)
    if role == "system":
        return SystemMessage(content, **named)
    if role == "developer":
        return SystemMessage(content, additional_kwargs={"__openai_role__": role}, **named)
    if role == "tool":
        call_id = item.get("tool_call_id")
        if not isinstance(call_id, str):
            raise bad_request(f"{where}: a tool's message needs tool_call_id", where)
        return ToolMessage(content, tool_call_id=call_id, **named)
    if role == "function" and named:
        return FunctionMessage(content=content, **named)
    raise bad_request(
        f"{where}.role is {role!r}; it must be system, developer, user, assistant or tool",
        f"{where}.role",
    )


def _content(content: Any, where: str) -> Any:
    if isinstance(content, str):
        return content
    if is_list_of(content, dict) and all(isinstance(part.get("type"), str) for part in content):
        return content
    raise bad_request(
        f"{where}.content must be a string or a list of parts with a type", f"{where}.content"
    )


def _assistant(
    item: Mapping[str, Any], content: Any, named: Mapping[str, Any], where: str
) -> AIMessage:
    calls, broken = _calls(item.get("tool_calls") or [], where)
    beside = {n: v for n, v in item.items() if n not in _SPOKEN and v is not None}
    return AIMessage(
        content, tool_calls=calls, invalid_tool_calls=broken, additional_kwargs=beside, **named
    )


def _calls(given: Any, where: str) -> tuple[list[ToolCall], list[InvalidToolCall]]:
    calls: list[ToolCall] = []
    broken: list[InvalidToolCall] = []
    if not is_list_of(given, dict):
        raise bad_request(f"{where}.tool_calls must be a list of objects", f"{where}.tool_calls")
    for call in given:
        function = call.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise bad_request(
                f"{where}.tool_calls: a call needs function.name", f"{where}.tool_calls"
            )
        name, text, call_id = function["name"], function.get("arguments"), call.get("id")
        if not isinstance(text, str | None) or not isinstance(call_id, str | None):
            raise bad_request(
                f"{where}.tool_calls: id and arguments are strings", f"{where}.tool_calls"
            )
        try:
            args = orjson.loads(text or "{}")
        except orjson.JSONDecodeError:
            args = None
        if isinstance(args, dict):
            calls.append(ToolCall(name=name, args=args, id=call_id, type="tool_call"))
        else:
            broken.append(
                InvalidToolCall(
                    name=name, args=text, id=call_id, error=None, type="invalid_tool_call"
                )
            )
    return calls, broken
