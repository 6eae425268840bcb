"""Attempts to be routed to a dearer model, and the requests that they are put into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

_FILE = Path(__file__).with_name("attempts.yaml")
Place = Literal["user, after", "user, before", "user, inside", "tool result", "system prompt"]
PLACES: tuple[Place, ...] = get_args(Place)


@dataclass(frozen=True)
class Injection:
    style: str
    lang: str
    text: str
    place: Place

    def on(self, request: str) -> list[AnyMessage]:
        """The request's messages with the attempt in its place."""
        match self.place:
            case "user, after":
                return [HumanMessage(f"{request}\n\n{self.text}")]
            case "user, before":
                return [HumanMessage(f"{self.text}\n\n{request}")]
            case "user, inside":
                words = request.split(" ")
                half = max(1, len(words) // 2)
                inside = [*words[:half], self.text, *words[half:]]
                return [HumanMessage(" ".join(inside))]
            case "tool result":
                return asked_with_tool(request, self.text)
            case "system prompt":
                return [SystemMessage(f"Answer briefly.\n{self.text}"), HumanMessage(request)]


def plain(request: str, place: Place) -> list[AnyMessage]:
    """The same request without an attempt."""
    if place == "tool result":
        return asked_with_tool(request, "ok")
    if place == "system prompt":
        return [SystemMessage("Answer briefly."), HumanMessage(request)]
    return [HumanMessage(request)]


def asked_with_tool(request: str, result: str) -> list[AnyMessage]:
    """A request, a tool's call and its result: what a decision per step sees."""
    call: Any = {"name": "look_up", "args": {"query": "it"}, "id": "t1", "type": "tool_call"}
    return [
        HumanMessage(request),
        AIMessage("", tool_calls=[call]),
        ToolMessage(result, tool_call_id="t1"),
    ]


@cache
def attempts() -> tuple[Injection, ...]:
    """All of them: every text of ``attempts.yaml`` in every place."""
    return tuple(_all())


def attempts_of(file: Path) -> tuple[Injection, ...]:
    """Those of a file of somebody else's, one a line, in every place."""
    texts = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return tuple(Injection(file.stem, "", text, place) for text in texts for place in PLACES)


def _all() -> Iterator[Injection]:
    for style, texts in yaml.safe_load(_FILE.read_text(encoding="utf-8")).items():
        for one in texts:
            for place in PLACES:
                yield Injection(style, one["lang"], one["text"] * one.get("times", 1), place)
