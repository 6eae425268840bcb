"""Limits and sampling by the names that a provider reads."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pydantic import Field

from tests.calls.worker.asking import ASK, call, limits
from tests.support.providers import PROVIDERS, Loopback
from xrouter_lg import Budget, ModelPool, XRouterNode
from xrouter_lg.calls.worker.parameters import Bound, prepare
from xrouter_lg.types import PlannedCall

# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "sent"),
    [
        # A server of another's: some read the one name only, some the other.
        ("openai:gpt-x", {"max_completion_tokens": 77, "max_tokens": 77}),
        ("anthropic:claude-x", {"max_tokens": 77}),
        ("google_genai:gemini-2.5-flash", {"maxOutputTokens": 77}),
        ("mistralai:mistral-x", {"max_tokens": 77}),
        ("ollama:llama-x", {"num_predict": 77}),
        ("openrouter:vendor/x", {"max_completion_tokens": 77}),
        ("deepseek:deepseek-chat", {"max_tokens": 77}),
        ("xai:grok-x", {"max_tokens": 77}),
        ("perplexity:sonar", {"max_tokens": 77}),
    ],
)
async def test_a_limit_and_a_temperature_reach_every_provider(
    server: Loopback, provider: str, sent: dict[str, int]
) -> None:
    result = await call(server.card(provider), call={"max_tokens": 77, "temperature": 0.5})
    assert result.message is not None, result.detail
    body = server.requests[0].body
    assert limits(body) == sent
    inner = body.get("generationConfig") or body.get("options") or body
    assert inner["temperature"] == 0.5


@pytest.mark.parametrize("provider", PROVIDERS)
def test_a_budget_breaks_no_providers_calls(server: Loopback, provider: str) -> None:
    node = XRouterNode(ModelPool([server.card(provider)]), budget=Budget(per_request_usd="0.5"))
    assert node.invoke(ASK)["messages"][0].text == "Paris."
    assert set(limits(server.requests[0].body).values()) == {500}


async def test_ollama_keeps_its_other_options(server: Loopback) -> None:
    card = server.card("ollama:llama-x", params={"num_ctx": 2048, "top_p": 0.9})
    await call(card, call={"max_tokens": 7})
    await call(card, call={"max_tokens": 7}, call_options={"options": {"num_ctx": 512}})
    assert [asked.body["options"] for asked in server.requests] == [
        {"num_ctx": 2048, "top_p": 0.9, "num_predict": 7},
        {"num_ctx": 512, "num_predict": 7},
    ]


async def test_an_ollama_option_never_lifts_a_limit(server: Loopback) -> None:
    options = {"options": {"num_predict": 9000}}
    await call(server.card("ollama:llama-x"), call={"max_tokens": 7}, call_options=options)
    await call(server.card("ollama:llama-x"), call={"max_tokens": 7}, tool_options=options)
    assert [asked.body["options"] for asked in server.requests] == [{"num_predict": 7}] * 2


async def test_no_second_name_of_the_cards_own_lifts_a_limit(server: Loopback) -> None:
    card = server.card("openrouter:vendor/x", params={"max_tokens": 9000})
    await call(card, call={"max_tokens": 77})
    assert set(limits(server.requests[0].body).values()) == {77}


async def test_the_responses_api_has_a_name_of_its_own(server: Loopback) -> None:
    card = server.card("openai:gpt-x", params={"use_responses_api": True})
    await call(card, call={"max_tokens": 77})
    assert limits(server.requests[0].body) == {"max_output_tokens": 77}


@pytest.mark.parametrize(
    "model",
    [
        ChatOpenAI(model="o-x", api_key="k"),  # type: ignore[arg-type]
        AzureChatOpenAI(
            azure_endpoint="https://mine.openai.azure.com",
            azure_deployment="d",
            api_version="2025-01-01",
            api_key="k",  # type: ignore[arg-type]
        ),
    ],
    ids=["openai", "azure"],
)
def test_openais_own_servers_get_the_name_that_every_model_of_theirs_takes(model: Any) -> None:
    made = prepare(model, PlannedCall("c1", "one", max_tokens=7), Bound((), {}, {}))
    assert made.kwargs == {"max_completion_tokens": 7}


class Plain(FakeListChatModel):
    responses: list[str] = Field(default_factory=list)


class GoogleLike(Plain):
    max_output_tokens: int | None = Field(default=None, alias="max_tokens")


class HuggingFaceLike(Plain):
    max_new_tokens: int | None = None


@pytest.mark.parametrize(
    ("model", "keyword"),
    [
        (GoogleLike(), "max_output_tokens"),
        (HuggingFaceLike(), "max_new_tokens"),
        (Plain(), "max_tokens"),
    ],
    ids=lambda it: it if isinstance(it, str) else type(it).__name__,
)
def test_another_class_gets_the_limit_by_its_fields_name(model: Any, keyword: str) -> None:
    made = prepare(model, PlannedCall("c1", "one", max_tokens=7), Bound((), {}, {}))
    assert made.kwargs == {keyword: 7}


# --- limits of the app's own ---------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 9000},
        {"max_completion_tokens": 9000},
        {"extra_body": {"max_tokens": 9000, "top_k": 3}},
    ],
    ids=["max_tokens", "max_completion_tokens", "extra_body"],
)
async def test_what_the_app_bound_never_lifts_a_limit(
    server: Loopback, options: dict[str, Any]
) -> None:
    await call(server.card("openai:gpt-x"), call={"max_tokens": 77}, call_options=options)
    body = server.requests[0].body
    assert set(limits(body).values()) == {77}
    assert body.get("top_k") == options.get("extra_body", {}).get("top_k")


async def test_geminis_own_config_never_lifts_a_limit(server: Loopback) -> None:
    options = {"generation_config": {"max_output_tokens": 9000, "top_k": 3}}
    card = server.card("google_genai:gemini-2.5-flash")
    await call(card, call={"max_tokens": 77}, call_options=options)
    config = server.requests[0].body["generationConfig"]
    assert (config["maxOutputTokens"], config["topK"]) == (77, 3)


async def test_a_lower_limit_of_the_apps_stays(server: Loopback) -> None:
    await call(server.card("openai:gpt-x"), call={"max_tokens": 77}, tool_options={"max_tokens": 5})
    assert set(limits(server.requests[0].body).values()) == {5}
