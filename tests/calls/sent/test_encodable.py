"""No half of a surrogate pair reaches a provider's client."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from tests.support.apps import app, card, record
from xrouter_lg import ModelPool, XRouterNode
from xrouter_lg.calls.sent.encodable import encodable
from xrouter_lg.testing import FakeOpenAIServer

HALF = "cut \ud83d end"
MENDED = "cut � end"


def test_each_text_of_a_message_is_mended() -> None:
    calls: Any = [{"name": "f", "args": {HALF: [HALF]}, "id": "1"}]
    talk: list[BaseMessage] = [
        HumanMessage([{"type": "text", "text": HALF}, HALF]),
        AIMessage(HALF, tool_calls=calls),
        ToolMessage(HALF, tool_call_id="1"),
    ]
    human, ai, tool = encodable(talk)
    assert human.content == [{"type": "text", "text": MENDED}, MENDED]
    assert isinstance(ai, AIMessage)
    assert ai.tool_calls[0]["args"] == {MENDED: [MENDED]}
    assert (ai.content, tool.content) == (MENDED, MENDED)
    assert talk[1].content == HALF


def test_messages_without_it_are_the_very_same() -> None:
    talk = [
        HumanMessage("an emoji 👩‍👩‍👧 and NUL \x00"),
        AIMessage([{"type": "text", "text": "é"}]),
    ]
    assert encodable(talk) is talk


async def test_half_an_emoji_costs_no_request(fake: FakeOpenAIServer) -> None:
    node = XRouterNode(ModelPool([card(fake, "small")]))
    state = await app(node).ainvoke({"messages": [HumanMessage(HALF)]})
    assert record(state)["fallbacks"] == []
    assert fake.requests[0].body["messages"][0]["content"] == MENDED
