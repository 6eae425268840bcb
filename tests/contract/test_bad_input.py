"""Each bad input has its own clear error: value, place, fix."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from tests.support.apps import app, ask, card, pool, record
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.errors import (
    ConfigurationError,
    EmptyMessagesError,
    MissingKeyError,
    NoCandidateError,
    PoolError,
    RequestError,
    RequestOptionError,
)
from xrouter_lg.testing import FakeOpenAIServer


@pytest.mark.parametrize("value", [[], None, "", "  \n", ()], ids=repr)
async def test_nothing_to_answer(fake: FakeOpenAIServer, value: Any) -> None:
    with pytest.raises(EmptyMessagesError, match=r"state\['messages'\] is empty; .*messages_key="):
        await XRouterNode(pool(fake)).ainvoke({"messages": value})


async def test_a_missing_key_of_the_state_is_named(fake: FakeOpenAIServer) -> None:
    with pytest.raises(EmptyMessagesError, match=r"state\['chat'\]"):
        await XRouterNode(pool(fake), messages_key="chat").ainvoke(ask())


async def test_a_state_that_is_no_state(fake: FakeOpenAIServer) -> None:
    with pytest.raises(EmptyMessagesError):
        await XRouterNode(pool(fake)).ainvoke(42)


@pytest.mark.parametrize(
    "messages",
    [
        [SystemMessage("Write a haiku.")],
        [
            AIMessage("", tool_calls=[{"name": "add", "args": {}, "id": "1"}]),
            ToolMessage("5", tool_call_id="1"),
        ],
        [ChatMessage("hi", role="user")],
    ],
    ids=["system alone", "trimmed tool loop", "chat message"],
)
async def test_what_a_model_takes_without_a_human_message_is_taken(
    fake: FakeOpenAIServer, messages: list[Any]
) -> None:
    state = await app(XRouterNode(pool(fake))).ainvoke({"messages": messages})
    assert record(state)["route"] == "small"


@pytest.mark.parametrize("value", [42, {"a": 1}, [42], [object], [("nobody", "x")]], ids=repr)
async def test_something_that_is_no_message(fake: FakeOpenAIServer, value: Any) -> None:
    with pytest.raises(RequestError, match=r"state\['messages'\]"):
        await XRouterNode(pool(fake)).ainvoke({"messages": value})


async def test_nothing_is_asked_of_anybody_for_a_bad_request(fake: FakeOpenAIServer) -> None:
    with pytest.raises(RequestOptionError):
        await app(XRouterNode(pool(fake))).ainvoke(ask(), {"configurable": {"cost_weight": -1}})
    assert not fake.requests


async def test_a_bad_option_reaches_a_sync_caller_as_it_is(fake: FakeOpenAIServer) -> None:
    with pytest.raises(RequestOptionError, match=r"cost_weight.* is 'cheap'; it must be"):
        app(XRouterNode(pool(fake))).invoke(ask(), {"configurable": {"cost_weight": "cheap"}})


async def test_a_pool_with_one_card_just_works(fake: FakeOpenAIServer) -> None:
    assert record(await app(XRouterNode(pool(fake, "large"))).ainvoke(ask()))["route"] == "large"


async def test_an_allow_list_of_unknown_names_is_refused(fake: FakeOpenAIServer) -> None:
    with pytest.raises(RequestOptionError, match=r"'huge', which is no card .* small, large"):
        await app(XRouterNode(pool(fake))).ainvoke(ask(), {"configurable": {"allow": ["huge"]}})


async def test_a_context_longer_than_every_window(fake: FakeOpenAIServer) -> None:
    cards = [card(fake, "small", context_window=50), card(fake, "large", context_window=90)]
    with pytest.raises(NoCandidateError, match=r"context too long: about \d+ tokens .* of 90"):
        await app(XRouterNode(ModelPool(cards))).ainvoke(ask("word " * 500))


async def test_an_image_for_text_only_cards(fake: FakeOpenAIServer) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    blind = ModelPool([dataclasses.replace(c, capabilities={"tools"}) for c in pool(fake)])
    with pytest.raises(NoCandidateError, match=r"'small': has no capability 'vision'"):
        await app(XRouterNode(blind)).ainvoke({"messages": [HumanMessage([image])]})


@pytest.mark.parametrize("key", ["", None, 3])
def test_a_key_of_the_state_that_is_none(fake: FakeOpenAIServer, key: Any) -> None:
    with pytest.raises(ConfigurationError, match="messages_key"):
        XRouterNode(pool(fake), messages_key=key)


def test_a_missing_api_key_is_found_on_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    keyed = ModelCard(name="a", model="a", base_url="http://127.0.0.1:1/v1", api_key_env="SOME_KEY")
    with pytest.raises(MissingKeyError, match="SOME_KEY is not set"):
        XRouterNode(ModelPool([keyed]))


def test_an_unknown_provider_is_found_on_construction() -> None:
    with pytest.raises(PoolError, match="unknown provider 'acme'"):
        XRouterNode(ModelPool([ModelCard(name="a", model="acme:rocket")]))


def test_a_pool_that_is_a_list_says_what_to_give(fake: FakeOpenAIServer) -> None:
    with pytest.raises(ConfigurationError, match="give a ModelPool"):
        XRouterNode([card(fake, "small")])  # type: ignore[arg-type]


def test_a_budget_that_is_a_number_says_what_to_give(fake: FakeOpenAIServer) -> None:
    with pytest.raises(ConfigurationError, match="Budget"):
        XRouterNode(pool(fake), budget=0.5)  # type: ignore[arg-type]
