"""The ways in which an app asks. A surface that is added here meets every kind of failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from langchain_core.messages import AIMessage

from tests.support.apps import ask, calls, prefers
from xrouter_lg import Action, Policy

Ask = Callable[[Any], tuple[AIMessage, str]]
"""From a compiled app to its answer and the text that was streamed on the way ("" without)."""


def invoke(app: Any) -> tuple[AIMessage, str]:
    return app.invoke(ask())["messages"][-1], ""


def ainvoke(app: Any) -> tuple[AIMessage, str]:
    return asyncio.run(app.ainvoke(ask()))["messages"][-1], ""


def stream(app: Any) -> tuple[AIMessage, str]:
    return _taken(list(app.stream(ask(), stream_mode=["messages", "values"])))


def astream(app: Any) -> tuple[AIMessage, str]:
    async def take() -> list[Any]:
        return [part async for part in app.astream(ask(), stream_mode=["messages", "values"])]

    return _taken(asyncio.run(take()))


def _taken(parts: list[Any]) -> tuple[AIMessage, str]:
    said = [part[0] for mode, part in parts if mode == "messages"]
    # What comes whole at the end is the node's own message, and was streamed before.
    text = "".join(str(chunk.text) for chunk in said if type(chunk).__name__ == "AIMessageChunk")
    return parts[-1][1]["messages"][-1], text


def one_call() -> Policy:
    return prefers("small", "large")


def fan_out() -> Policy:
    """The card that fails and the healthy one at once."""
    return calls(Action("call", card="small"), Action("call", card="large"))


SURFACES: dict[str, tuple[Ask, Callable[[], Policy]]] = {
    "invoke": (invoke, one_call),
    "ainvoke": (ainvoke, one_call),
    "stream": (stream, one_call),
    "astream": (astream, one_call),
    "fan-out": (invoke, fan_out),
    "async fan-out": (ainvoke, fan_out),
}
