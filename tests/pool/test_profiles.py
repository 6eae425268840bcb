"""What a pool file leaves out, LangChain's profile of the model says."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from pydantic import SecretStr

from xrouter_lg import ModelCard
from xrouter_lg.pool.profiles import profile_of
from xrouter_lg.testing import ScriptedChatModel


@pytest.mark.parametrize(
    "model", ["openai:gpt-5-mini", "anthropic:claude-sonnet-4-5", "google_genai:gemini-2.5-flash"]
)
def test_a_published_model_needs_no_window_and_no_capabilities(model: str) -> None:
    card = ModelCard(name="a", model=model)
    assert {"tools", "vision", "files"} <= card.capabilities
    assert card.context_window is not None
    assert card.context_window >= 200_000
    assert card.from_profile == {"capabilities", "context_window"}
    assert card.lacks("video") == (not model.startswith("google"))


@pytest.mark.parametrize(
    ("model", "usual"),
    [
        ("openai:gpt-5-2025-08-07", "openai:gpt-5"),
        ("openai:o3-2025-04-16", "openai:o3"),
        ("anthropic:claude-sonnet-4-5@20250929", "anthropic:claude-sonnet-4-5-20250929"),
        ("google_genai:models/gemini-2.5-flash", "google_genai:gemini-2.5-flash"),
        (
            "google_genai:gemini-2.5-flash-lite-preview-09-2025",
            "google_genai:gemini-2.5-flash-lite",
        ),
        ("openrouter:openai/gpt-5-mini:online", "openrouter:openai/gpt-5-mini"),
        ("openrouter:google/gemini-2.5-pro:exacto", "openrouter:google/gemini-2.5-pro"),
    ],
)
def test_a_snapshot_or_variant_of_a_model_can_do_what_the_model_can(model: str, usual: str) -> None:
    dated, plain = ModelCard(name="a", model=model), ModelCard(name="a", model=usual)
    assert plain.context_window is not None
    assert (dated.capabilities, dated.context_window) == (plain.capabilities, plain.context_window)


def test_googles_name_of_a_model_has_its_price() -> None:
    dated = ModelCard(name="a", model="google_genai:models/gemini-2.5-flash")
    plain = ModelCard(name="a", model="google_genai:gemini-2.5-flash")
    assert dated.effective_price == plain.effective_price is not None


def test_what_the_pool_file_says_holds() -> None:
    card = ModelCard(
        name="a", model="openai:gpt-5-mini", capabilities={"tools"}, context_window=9_000
    )
    assert (card.capabilities, card.context_window) == ({"tools"}, 9_000)
    assert card.lacks("vision")
    assert card.from_profile == frozenset()


def test_nobody_knows_what_a_server_of_the_users_own_can_do() -> None:
    card = ModelCard(name="a", model="gpt-5-mini", base_url="http://127.0.0.1:1/v1")
    assert card.capabilities == {"tools", "structured_output"}
    assert not card.lacks("vision")
    assert (card.context_window, card.from_profile) == (None, frozenset())


def test_a_provider_without_a_package_has_no_profile() -> None:
    assert profile_of("cohere", "command-r") is None
    assert profile_of("no.such", "m") is None


def test_profiles_are_read_without_importing_the_providers_package() -> None:
    modules = {name for name in sys.modules if name.startswith("langchain_mistralai")}
    profile_of("mistralai", "mistral-large-latest")
    assert {name for name in sys.modules if name.startswith("langchain_mistralai")} == modules


def test_a_chat_model_that_was_handed_in_is_known_by_its_class() -> None:
    from langchain_anthropic import ChatAnthropic

    named = ModelCard(name="a", model="anthropic:claude-sonnet-4-5")
    handed = ChatAnthropic(
        model_name="claude-sonnet-4-5", api_key=SecretStr("k"), timeout=None, stop=None
    )
    card = ModelCard(name="a", model=handed)
    assert card.maker == named.maker == "anthropic"
    assert (card.capabilities, card.context_window) == (named.capabilities, named.context_window)
    assert card.effective_price == named.effective_price


def test_a_subclass_of_the_users_own_speaks_as_its_parent_does() -> None:
    from langchain_openai import ChatOpenAI

    class Tuned(ChatOpenAI):
        pass

    settings: dict[str, Any] = {"api_key": SecretStr("k"), "base_url": "http://127.0.0.1:1/v1"}
    card = ModelCard(name="a", model=Tuned(model="gpt-5-mini", **settings))
    assert card.maker == "openai"
    # Its server may give the name to any model.
    assert (card.published, card.effective_price, card.from_profile) == (None, None, frozenset())


def test_what_no_package_made_says_itself_whose_it_is() -> None:
    assert ModelCard(name="a", model=ScriptedChatModel(["x"])).maker == "scriptedchatmodel"
