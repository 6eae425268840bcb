"""A pool in one line, from models as an app has them."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from tests.support.apps import app, ask, record
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.errors import PoolError
from xrouter_lg.testing import ScriptedChatModel


def test_model_strings_become_cards_with_published_prices() -> None:
    pool = ModelPool.of("openai:gpt-5-nano", "anthropic:claude-haiku-4-5", default="gpt_5_nano")
    assert pool.names == ("gpt_5_nano", "claude_haiku_4_5")
    nano = pool["gpt_5_nano"]
    assert nano.effective_price is not None
    assert nano.context_window


def test_two_models_of_one_name_are_told_apart() -> None:
    pool = ModelPool.of("openai:gpt-5-nano", "openrouter:gpt-5-nano", "openai:gpt-5-nano")
    assert pool.names == ("gpt_5_nano", "openrouter_gpt_5_nano", "openai_gpt_5_nano")


async def test_chat_models_cards_and_bound_keywords_are_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "not-a-key")
    bound = ScriptedChatModel(lambda messages: "bound", model_name="b").bind(temperature=0.5)
    plain = ScriptedChatModel(lambda messages: "plain", model_name="a")
    pool = ModelPool.of(
        plain.with_retry(), bound.bind(stop=["x"]), ModelCard(name="own", model="openai:gpt-5")
    )
    assert pool.names == ("a", "b", "own")
    state = await app(XRouterNode(pool, policy="fixed:b")).ainvoke(ask())
    assert state["messages"][-1].text == "bound"
    (call,) = pool["b"].model.calls  # type: ignore[union-attr]
    assert (call.temperature, call.stop) == (0.5, ["x"])


async def test_keywords_of_the_app_win_over_bound_ones() -> None:
    model = ScriptedChatModel(lambda messages: "yes", model_name="a")
    pool = ModelPool.of(model.bind(stop=["x"]))
    await XRouterNode(pool).ainvoke(ask(), stop=["y"])
    assert model.calls[0].stop == ["y"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (42, "model 1 is 42; give a string"),
        (RunnableLambda(lambda x: x).bind(a=1), "what is bound is a RunnableLambda"),
        (
            ScriptedChatModel(["x"]).with_config(tags=["t"]),
            "has a config bound .*tags.*; give tags",
        ),
        ("gpt-5-nano", "names no provider"),
        ("openai:", r"model 'openai:' names no model of openai; write 'openai:model'"),
        (
            ScriptedChatModel(["x"]).with_fallbacks([ScriptedChatModel(["y"])]),
            "model 1 is a RunnableWithFallbacks",
        ),
    ],
    ids=["number", "no model", "config", "no provider", "no name", "fallbacks"],
)
def test_what_is_no_model_is_refused_without_its_repr(model: Any, message: str) -> None:
    with pytest.raises(PoolError, match=message):
        ModelPool.of(model)


def test_bare_models_in_the_constructor_are_pointed_to_of() -> None:
    with pytest.raises(PoolError, match=r"ModelPool\.of takes bare models"):
        ModelPool(["openai:gpt-5-nano"])  # type: ignore[list-item]


def test_an_empty_pool_is_refused() -> None:
    with pytest.raises(PoolError, match="no card"):
        ModelPool.of()


def test_the_usual_way_to_name_a_card_is_kept(tmp_path: Any) -> None:
    assert (
        record(XRouterNode(ModelPool.of(ScriptedChatModel(["hi"]))).invoke(ask()))["route"]
        == "scripted"
    )
