"""A fake model that does what a request asks for: calls its tools, follows its schema."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from xrouter_lg.testing import Reply, ToolCall

Body = Mapping[str, Any]


def obliging(body: Body) -> Reply:
    """An answer of the form that the request wants; text otherwise."""
    text, last = _asked(body), body["messages"][-1]
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        schema = form["json_schema"]["schema"]
        return Reply(json.dumps(value_for(schema, schema, text), ensure_ascii=False))
    if form.get("type") == "json_object":
        return Reply(json.dumps({"setup": "Why?", "punchline": "Because."}))
    tools = [tool["function"] for tool in body.get("tools") or []]
    choice = body.get("tool_choice")
    forced = isinstance(choice, Mapping) or choice in ("required", "any")
    if tools and (forced or last["role"] != "tool"):
        wanted = choice["function"]["name"] if isinstance(choice, Mapping) else tools[0]["name"]
        tool = next(tool for tool in tools if tool["name"] == wanted)
        schema = tool.get("parameters") or {}
        return Reply(tool_calls=[ToolCall(wanted, value_for(schema, schema, text))])
    return Reply(f"Here is an answer to: {text[:40]}")


def value_for(schema: Mapping[str, Any], root: Mapping[str, Any], text: str) -> Any:
    """A value that a JSON schema allows, with numbers and quoted words out of the text."""
    if (ref := schema.get("$ref")) is not None:
        place: Any = root
        for key in ref.removeprefix("#/").split("/"):
            place = place[key]
        return value_for(place, root, text)
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            options = [option for option in schema[key] if option.get("type") != "null"]
            return value_for(options[0], root, text)
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type", "object")
    if kind == "object":
        fields = schema.get("properties") or {}
        return {name: value_for(inner, root, text) for name, inner in fields.items()}
    number = re.search(r"\d+", text)
    quoted = re.search(r"'([^']+)'", text)
    made: dict[str, Any] = {
        "integer": int(number[0]) if number else 1,
        "number": float(number[0]) if number else 1.0,
        "boolean": True,
        "array": [],
        "string": quoted[1] if quoted else "something",
    }
    return made[kind]


def _asked(body: Body) -> str:
    for message in reversed(body["messages"]):
        if message["role"] == "user":
            content = message["content"]
            return content if isinstance(content, str) else json.dumps(content)
    return ""
