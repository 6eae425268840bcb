"""A chat model that the app made, and wrapped, before it became a card."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.support.apps import app, ask
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.calls.attempt import Workers
from xrouter_lg.errors import PoolError
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan, server_error
from xrouter_lg.types import PlannedCall


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def subtract(a: int, b: int) -> int:
    """Subtract a number."""
    return a - b


def chat(url: str = "http://127.0.0.1:1/v1", **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(model="m", base_url=url, api_key=SecretStr("k"), **settings)


def card(model: Any, **fields: Any) -> ModelCard:
    return ModelCard(**{"name": "a", "model": model, "price": {"input": 1, "output": 2}, **fields})


async def test_its_retries_are_made_by_us_and_charged(fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="m"))
    fake.faults = FaultPlan({"m": server_error(503)})
    wrapped = chat(fake.base_url, max_retries=1).with_retry(stop_after_attempt=3)
    asked = card(wrapped, max_retries=0)
    result = await Workers().call(asked, PlannedCall("c1", "a"), [HumanMessage("Hi")], {})
    # Two more by the wrapper, one more by the client: neither multiplies the other.
    assert fake.calls["m"] == len(result.charges) == 3


def test_what_is_bound_to_it_is_sent_with_every_call(fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="m"))
    model = chat(fake.base_url).bind(stop=["END"], seed=1).bind(seed=2).with_retry()
    node = XRouterNode(ModelPool([card(model)]))
    app(node).invoke(ask())
    app(node.bind_tools([add])).invoke(ask())
    app(node.bind(seed=3)).invoke(ask())
    bodies = [asked.body for asked in fake.requests]
    assert [(body["stop"], body["seed"]) for body in bodies] == [
        (["END"], 2),
        (["END"], 2),
        (["END"], 3),
    ]


def test_params_of_a_card_reach_a_model_that_was_handed_in(fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="m"))
    app(XRouterNode(ModelPool([card(chat(fake.base_url), params={"top_p": 0.5})]))).invoke(ask())
    assert fake.requests[0].body["top_p"] == 0.5


def test_tools_that_are_bound_to_it_give_way_to_the_nodes(fake: FakeOpenAIServer) -> None:
    fake.add_model(FakeModel(name="m"))
    node = XRouterNode(ModelPool([card(chat(fake.base_url).bind_tools([add]))]))
    app(node).invoke(ask())
    app(node.bind_tools([subtract])).invoke(ask())
    names = [[it["function"]["name"] for it in asked.body["tools"]] for asked in fake.requests]
    assert names == [["add"], ["subtract"]]


def test_a_config_belongs_to_the_app() -> None:
    with pytest.raises(PoolError, match=r"a config bound \(.*tags.*\); give tags"):
        card(chat().with_config(tags=["b"]))


def test_fallbacks_are_cards_of_their_own() -> None:
    with pytest.raises(PoolError, match=r"fallbacks .*ChatOpenAI.*a card of its own"):
        card(chat().with_fallbacks([chat()]))


@pytest.mark.parametrize("model", [RunnableLambda(str), 5, None, ""])
def test_what_holds_no_chat_model_is_refused(model: Any) -> None:
    with pytest.raises(PoolError, match="give an init_chat_model string"):
        card(model)
    if isinstance(model, RunnableLambda):
        with pytest.raises(PoolError, match="what is bound is a RunnableLambda"):
            card(model.with_retry())
