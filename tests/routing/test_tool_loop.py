"""When the history is inside a tool loop, and whose."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from xrouter_lg.routing.tool_loop import caller_in_loop

ASKED = HumanMessage("What is on the screen?")
PICTURE = HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}])


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {}}}


def caller(*names: str, route: Any = "large") -> AIMessage:
    calls = [{"name": name, "args": {}, "id": f"c{i}"} for i, name in enumerate(names)]
    return AIMessage("", tool_calls=calls, response_metadata={"xrouter": {"route": route}})


def result(number: int = 0) -> ToolMessage:
    return ToolMessage("seen", tool_call_id=f"c{number}")


LOOP: list[BaseMessage] = [ASKED, caller("look"), result()]


def test_a_tools_result_belongs_to_who_asked_for_it() -> None:
    assert caller_in_loop(LOOP, [tool("look")]) == "large"


@pytest.mark.parametrize("behind", [PICTURE, SystemMessage("Answer in French.")])
def test_what_stands_behind_the_result_does_not_end_the_loop(behind: BaseMessage) -> None:
    assert caller_in_loop([*LOOP, behind], [tool("look")]) == "large"


def test_an_answer_ends_the_loop() -> None:
    talk = [*LOOP, AIMessage("A cat."), HumanMessage("And now?")]
    assert caller_in_loop(talk, [tool("look")]) is None


def test_every_call_has_to_be_answered() -> None:
    talk = [ASKED, caller("look", "hear"), result(1)]
    bound = [tool("look"), tool("hear")]
    assert caller_in_loop(talk, bound) is None
    assert caller_in_loop([*talk, result(0)], bound) == "large"


@pytest.mark.parametrize("bound", [[], [tool("look")]])
def test_a_hand_off_to_another_agent_is_no_loop(bound: list[dict[str, Any]]) -> None:
    talk = [ASKED, caller("transfer_to_bob"), result()]
    assert caller_in_loop(talk, bound) is None


def test_tools_in_another_providers_format_count() -> None:
    assert caller_in_loop(LOOP, [{"name": "look", "input_schema": {}}]) == "large"


def test_a_call_that_was_not_routed_names_nobody() -> None:
    asked = AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "c0"}])
    assert caller_in_loop([ASKED, asked, result()], [tool("look")]) is None
    assert caller_in_loop([ASKED, caller("look", route=None), result()], [tool("look")]) is None


def test_a_talk_without_answers_is_no_loop() -> None:
    assert caller_in_loop([ASKED], [tool("look")]) is None
