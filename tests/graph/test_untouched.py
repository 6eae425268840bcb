"""What the app bound reaches every provider as it would reach it from the same model by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from tests.support.provider_matrix import EACH_PROVIDER, PROVIDERS, Provider, fake_providers
from tests.support.providers import Answer, keys, loopback, plain_answer
from xrouter_lg import ModelPool, XRouterNode
from xrouter_lg.testing import FakeProviders

ASK = [HumanMessage("What is the capital of France?")]


@tool
def weather(city: str, days: int = 1) -> str:
    """Weather of a city."""
    return f"sunny in {city} for {days} days"


class Report(BaseModel):
    """The report."""

    text: str = Field(description="what was found")
    count: int | None = None


def population(city: str) -> int:
    """Population of a city."""
    return len(city)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProviders]:
    with fake_providers(monkeypatch) as running:
        yield running


def bodies(server: FakeProviders, provider: Provider, ask: Any, **params: Any) -> tuple[Any, Any]:
    """What is sent by hand and through the router; an error of binding stands for itself."""
    node = XRouterNode(ModelPool([provider.card(server, params={**provider.params, **params})]))
    sent = []
    by_hand = provider.by_hand(server, **params)
    for runnable, request in ((by_hand, ASK), (node, {"messages": ASK})):
        server.clear()
        try:
            ask(runnable, request)
        except Exception as error:
            if not server.requests:
                sent.append(type(error).__name__)
                continue
        sent.append([(asked.path, asked.body) for asked in server.requests])
    return sent[0], sent[1]


def same(server: FakeProviders, provider: Provider, ask: Any, **params: Any) -> None:
    hand, routed = bodies(server, provider, ask, **params)
    if isinstance(hand, str):  # the class itself does not take this
        # Then neither do we send it; what a request does without is left out.
        assert isinstance(routed, str) or "parallel_tool_calls" not in json.dumps(routed)
    else:
        assert routed == hand


@EACH_PROVIDER
@pytest.mark.parametrize(
    ("tools", "options"),
    [
        ([weather], {}),
        ([weather], {"strict": True}),
        ([weather], {"tool_choice": "any"}),
        ([weather], {"tool_choice": "weather"}),
        ([Report], {"strict": True}),
        ([Report, population], {}),
        ([weather], {"stop": ["END"]}),
        ([weather], {"parallel_tool_calls": False}),
    ],
    ids=["tool", "strict", "any", "named", "class", "function", "stop", "one at a time"],
)
def test_tools_and_options_are_those_of_the_models_own_bind_tools(
    server: FakeProviders, provider: Provider, tools: Any, options: dict[str, Any]
) -> None:
    same(server, provider, lambda it, ask: it.bind_tools(tools, **options).invoke(ask))


@EACH_PROVIDER
def test_keywords_of_bind_and_of_the_invocation_reach_the_models_call(
    server: FakeProviders, provider: Provider
) -> None:
    same(server, provider, lambda it, ask: it.bind(stop=["END"]).invoke(ask))
    same(server, provider, lambda it, ask: it.invoke(ask, stop=["END"]))


@EACH_PROVIDER
def test_a_response_format_reaches_the_models_call(
    server: FakeProviders, provider: Provider
) -> None:
    schema = {"name": "report", "schema": Report.model_json_schema()}
    wanted = {"type": "json_schema", "json_schema": schema}
    same(server, provider, lambda it, ask: it.bind(response_format=wanted).invoke(ask))


def test_tools_run_by_a_provider_reach_it_as_given(server: FakeProviders) -> None:
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    same(server, PROVIDERS["anthropic"], lambda it, ask: it.bind_tools([search]).invoke(ask))
    web = {"type": "web_search_preview"}
    same(server, PROVIDERS["openai"], lambda it, ask: it.bind_tools([web]).invoke(ask))
    google = {"google_search": {}}
    same(server, PROVIDERS["google_genai"], lambda it, ask: it.bind_tools([google]).invoke(ask))


def test_cache_marks_on_tools_and_messages_reach_the_provider(server: FakeProviders) -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    lookup = {"name": "lookup", "description": "d", "input_schema": {"type": "object"}, **mark}
    said = [HumanMessage([{"type": "text", "text": "Hi", **mark}])]
    same(
        server,
        PROVIDERS["anthropic"],
        lambda it, ask: it.bind_tools([lookup]).invoke({"messages": said} if ask != ASK else said),
    )
    assert server.requests[-1].body["tools"][0]["cache_control"] == {"type": "ephemeral"}
    assert server.requests[-1].body["messages"][0]["content"][0]["cache_control"]


def test_the_responses_api_gets_the_same_body(server: FakeProviders) -> None:
    params = {"use_responses_api": True, "reasoning": {"effort": "low"}}
    same(
        server,
        PROVIDERS["openai"],
        lambda it, ask: it.bind_tools([weather], strict=True).invoke(ask),
        **params,
    )


async def test_the_async_calls_are_the_same(server: FakeProviders) -> None:
    node = XRouterNode(ModelPool([PROVIDERS["openai"].card(server)]))
    await node.bind(stop=["END"]).ainvoke({"messages": ASK})
    await PROVIDERS["openai"].by_hand(server).bind(stop=["END"]).ainvoke(ASK)
    assert server.requests[0].body == server.requests[1].body


@EACH_PROVIDER
@pytest.mark.parametrize("options", [{}, {"parallel_tool_calls": False}, {"strict": True}], ids=str)
def test_an_empty_list_of_tools_goes_out_as_by_hand(
    server: FakeProviders, provider: Provider, options: dict[str, Any]
) -> None:
    same(server, provider, lambda it, ask: it.bind_tools([], **options).invoke(ask))


@pytest.mark.parametrize("param", ["tools", "tool_choice", None])
def test_an_empty_list_of_tools_that_a_provider_refuses_is_left_out(
    monkeypatch: pytest.MonkeyPatch, param: str | None
) -> None:
    said = f"Invalid '{param or 'tools'}': empty array. Expected an array with minimum length 1."
    if param == "tool_choice":
        said = "'tool_choice' is only allowed when 'tools' are specified."
    refused = {"message": said, "type": "invalid_request_error", "param": param}

    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        return (400, {"error": refused}) if "tools" in body else plain_answer(path, body)

    with loopback(answer) as openai:
        keys(monkeypatch, openai.url)
        node = XRouterNode(ModelPool([openai.card("openai:gpt-x")])).bind_tools([])
        for _ in range(2):
            told = node.invoke({"messages": ASK})["messages"][-1].response_metadata["xrouter"]
            assert told["fallbacks"] == []
        assert ["tools" in asked.body for asked in openai.requests] == [True, False, False]


@pytest.mark.parametrize("mode", ["ANY", "AUTO", "NONE"])
def test_a_configuration_of_no_functions_that_gemini_refuses_is_left_out(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    said = "Function calling config is set without function_declarations."
    refused = {"code": 400, "message": said, "status": "INVALID_ARGUMENT"}

    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        return (400, {"error": refused}) if "toolConfig" in body else plain_answer(path, body)

    config = {"function_calling_config": {"mode": mode}}
    with loopback(answer) as google:
        keys(monkeypatch, google.url)
        pool = ModelPool([google.card("google_genai:gemini-2.5-flash")])
        node = XRouterNode(pool).bind_tools([], tool_config=config)
        for _ in range(2):
            told = node.invoke({"messages": ASK})["messages"][-1].response_metadata["xrouter"]
            assert told["fallbacks"] == []
        assert ["toolConfig" in asked.body for asked in google.requests] == [True, False, False]


@pytest.mark.parametrize(
    "options",
    [
        {"tool_config": {"function_calling_config": {"mode": "ANY"}}},
        {"tool_config": {"retrieval_config": {"lat_lng": {"latitude": 1, "longitude": 2}}}},
        {"safety_settings": {"HARM_CATEGORY_DANGEROUS_CONTENT": "BLOCK_NONE"}},
        {"cached_content": "cachedContents/1"},
        {"generation_config": {"temperature": 0.1}},
        {"thinking_budget": 0},
        {"response_mime_type": "application/json"},
        {"functions": []},
        {"labels": {"a": "b"}},
    ],
    ids=lambda it: next(iter(it)),
)
def test_geminis_own_options_go_out_with_an_empty_list_as_by_hand(
    server: FakeProviders, options: dict[str, Any]
) -> None:
    gemini = PROVIDERS["google_genai"]
    same(server, gemini, lambda it, ask: it.bind_tools([], **options).invoke(ask))
    assert server.requests


@EACH_PROVIDER
def test_a_choice_among_no_tools_breaks_no_call(server: FakeProviders, provider: Provider) -> None:
    node = XRouterNode(ModelPool([provider.card(server)]))
    answer = node.bind_tools([], tool_choice="auto").invoke({"messages": ASK})["messages"][-1]
    assert answer.text == "Paris."


def test_keywords_of_one_request_are_not_those_of_the_next(server: FakeProviders) -> None:
    node = XRouterNode(ModelPool([PROVIDERS["openai"].card(server)]))
    node.invoke({"messages": ASK}, stop=["END"])
    node.invoke({"messages": ASK})
    assert ["stop" in asked.body for asked in server.requests] == [True, False]


def test_tools_given_as_a_keyword_need_a_card_with_tools(server: FakeProviders) -> None:
    from xrouter_lg.errors import NoCandidateError

    node = XRouterNode(ModelPool([PROVIDERS["openai"].card(server, capabilities=[])]))
    spec = {"type": "function", "function": {"name": "f", "parameters": {}}}
    with pytest.raises(NoCandidateError, match="tools"):
        node.bind(tools=[spec]).invoke({"messages": ASK})
    assert not server.requests
