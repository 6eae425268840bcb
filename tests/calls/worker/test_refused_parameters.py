"""A call goes without the parameters that a model refuses."""

from __future__ import annotations

import logging
from decimal import Decimal
from typing import Any

import pytest

from tests.calls.worker.asking import ASK, call, limits
from tests.support.providers import Answer, Loopback, keys, loopback, plain_answer
from xrouter_lg import Budget, ModelPool, XRouterNode
from xrouter_lg.calls.attempt import Workers
from xrouter_lg.calls.worker.parameters import LIMITS
from xrouter_lg.errors import AllCandidatesFailedError, ErrorClass


def refusing(*names: str, **error: Any) -> Any:
    """A model that takes none of these names and says so as OpenAI does."""

    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        for name in names:
            if body.get(name) is not None:
                text = f"Unsupported parameter: '{name}' is not supported with this model."
                said = {"message": text, "type": "invalid_request_error", "param": name, **error}
                return 400, {"error": said}
        return plain_answer(path, body)

    return answer


@pytest.mark.parametrize(
    ("card", "wanted", "options"),
    [
        ({}, {"temperature": 0.2}, {}),
        ({"params": {"temperature": 0.2}}, {}, {}),
        ({}, {}, {"temperature": 0.2}),
        ({"params": {"extra_body": {"top_k": 5}}}, {}, {}),
        ({}, {}, {"stop": ["END"]}),
        ({}, {}, {"seed": 3}),
    ],
    ids=["a policy's", "the card's", "the app's", "extra_body", "stop", "seed"],
)
async def test_a_refused_parameter_is_left_out_at_no_cost_in_retries(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    card: dict[str, Any],
    wanted: dict[str, Any],
    options: dict[str, Any],
) -> None:
    with loopback(refusing("temperature", "top_k", "stop", "seed")) as server:
        keys(monkeypatch, server.url)
        chosen, workers = server.card("openai:gpt-x", max_retries=0, **card), Workers()
        for _ in range(3):
            result = await call(chosen, workers, call=wanted, tool_options=options)
            assert result.message is not None
        assert len(server.requests) == 4  # only the first call had to learn it
        told = [it for it in caplog.records if it.levelno == logging.WARNING]
        assert len(told) == 1
        assert "refuses the parameter" in told[0].getMessage()


OPENAIS = "max_tokens is too large: 9000. This model supports at most 4096 completion tokens."
ANTHROPICS = "max_tokens: 9000 > 4096, which is the maximum allowed number of output tokens for m"
VOLCENGINES = (
    "The parameter `max_completion_tokens` specified in the request are not valid: integer above "
    "maximum value, expected a value <= 4096, but got 9000 instead."
)
GROQS = "`max_tokens` must be less than or equal to `4096`, the maximum value for `max_tokens`"
DEEPSEEKS = "Invalid max_tokens value, the valid range of max_tokens is [1, 4096]"
GEMINIS = (
    "Unable to submit request because it has a maxOutputTokens value of 9000 but the supported "
    "range is from 1 (inclusive) to 4097 (exclusive). Update the value and try again."
)


@pytest.mark.parametrize(
    ("provider", "text"),
    [
        ("openai:gpt-x", OPENAIS),
        ("openai:gpt-x", VOLCENGINES),
        ("openai:gpt-x", GROQS),
        ("anthropic:claude-x", ANTHROPICS),
        ("deepseek:deepseek-chat", DEEPSEEKS),
        ("google_genai:gemini-2.5-flash", GEMINIS),
        ("openrouter:vendor/x", OPENAIS),
    ],
)
@pytest.mark.parametrize("asks", ["the card", "the app"])
async def test_a_model_is_asked_for_no_longer_answer_than_it_says_it_writes(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    provider: str,
    text: str,
    asks: str,
) -> None:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        told = limits(body)
        if max(told.values(), default=0) <= 4096:
            return plain_answer(path, body)
        error = {"code": 400, "type": "invalid_request_error", "status": "INVALID_ARGUMENT"}
        return 400, {"type": "error", "error": {**error, "message": text}}

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        params = {"max_tokens": 9_000 if asks == "the card" else 20_000}
        chosen = server.card(provider, max_retries=0, params=params, max_output_tokens=None)
        workers = Workers()
        wanted = {"max_tokens": 9_000} if asks == "the app" else {}
        for _ in range(2):
            assert (await call(chosen, workers, call=wanted)).message is not None
        sent = [max(limits(asked.body).values()) for asked in server.requests]
        assert sent == [9_000, 4_096, 4_096]  # only the first call had to learn it
        assert (await call(chosen, workers, call={"max_tokens": 7})).message is not None
        assert max(limits(server.requests[-1].body).values()) == 7
        assert len([it for it in caplog.records if "at most" in it.getMessage()]) == 1


@pytest.mark.parametrize(
    ("provider", "params", "name", "said"),
    [
        (
            "mistralai:mistral-x",
            {"random_seed": 3},
            "random_seed",
            {"detail": [{"type": "extra_forbidden", "loc": ["body", "random_seed"]}]},
        ),
        (
            "openai:gpt-x",
            {"use_responses_api": True, "reasoning": {"effort": "low"}},
            "reasoning",
            {
                "message": "Unsupported parameter: 'reasoning.effort' is not supported with this "
                "model.",
                "param": "reasoning.effort",
            },
        ),
        (
            "perplexity:sonar",
            {"model_kwargs": {"presence_penalty": 0.5, "frequency_penalty": 0.2}},
            "presence_penalty",
            {"message": "Cannot specify both presence_penalty and frequency_penalty"},
        ),
        (
            "anthropic:claude-x",
            {"thinking": {"type": "enabled", "budget_tokens": 1024}},
            "thinking",
            {"message": '"thinking.type.enabled" is not supported for this model.'},
        ),
        ("ollama:llama-x", {"reasoning": True}, "think", '"llama-x" does not support thinking'),
    ],
    ids=["mistralai", "responses", "perplexity", "anthropic", "ollama"],
)
async def test_what_a_provider_calls_otherwise_is_left_out_too(
    monkeypatch: pytest.MonkeyPatch, provider: str, params: dict[str, Any], name: str, said: Any
) -> None:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        if body.get(name):
            return 400, {"type": "error", "error": said} if "detail" not in said else said
        return plain_answer(path, body)

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        chosen, workers = server.card(provider, max_retries=0, params=params), Workers()
        for _ in range(2):
            assert (await call(chosen, workers, call={})).message is not None
        assert [bool(asked.body.get(name)) for asked in server.requests] == [True, False, False]


@pytest.mark.parametrize(
    "text",
    [
        "Unsupported value: 'temperature' does not support 0.2 with this model.",
        "temperature: Extra inputs are not permitted",
        "`temperature` is deprecated for this model.",
        "`temperature` and `top_p` cannot both be specified for this model",
        "Unrecognized request argument supplied: temperature",
        "`temperature` may only be set to 1 when thinking is enabled",
        "`temperature` must be unset when thinking is enabled.",
        "this model and its relatives don't support temperature=0.2",
    ],
)
async def test_providers_that_name_the_parameter_in_their_words_only_are_understood(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        error = {"type": "invalid_request_error", "message": text}
        if "temperature" in body:
            return 400, {"type": "error", "error": error}
        return plain_answer(path, body)

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        card = server.card("anthropic:claude-x", max_retries=0)
        assert (await call(card, call={"temperature": 0.2})).message is not None


@pytest.mark.parametrize(
    ("body", "parameter"),
    [
        (
            {"code": "x", "error": "Argument not supported on this model: presencePenalty"},
            "presence_penalty",
        ),
        ({"error": "Model x does not support parameter reasoningEffort."}, "reasoning_effort"),
        (
            {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
            "seed",
        ),
        ({"error": {"message": "Penalty is not enabled for this model"}}, "frequency_penalty"),
        ({"error": {"message": "Unknown name 'stopSequences': Cannot find field."}}, "stop"),
        ({"error": {"message": "x don't support seed=3", "param": "None"}}, "seed"),
        (
            {"error": {"message": "Unsupported parameter.", "param": "reasoning.effort"}},
            "reasoning_effort",
        ),
    ],
    ids=["xai", "xai effort", "pydantic", "google", "google stop", "litellm", "responses"],
)
async def test_a_parameter_is_known_by_any_spelling_in_any_body(
    monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], parameter: str
) -> None:
    values = {"stop": ["END"], "reasoning_effort": "low", "seed": 3}
    value = values.get(parameter, 0.5)

    def answer(path: str, asked: dict[str, Any], number: int) -> Answer:
        return (400, body) if parameter in asked else plain_answer(path, asked)

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        card = server.card("openai:gpt-x", max_retries=0)
        result = await call(card, call={}, call_options={parameter: value})
        assert result.message is not None, result.detail
        assert [parameter in asked.body for asked in server.requests] == [True, False]


@pytest.mark.parametrize(
    ("refused", "sent"),
    [
        ("max_completion_tokens", {"max_tokens": 77}),
        ("max_tokens", {"max_completion_tokens": 77}),
    ],
)
async def test_a_limit_goes_by_its_other_name(
    monkeypatch: pytest.MonkeyPatch, refused: str, sent: dict[str, int]
) -> None:
    with loopback(refusing(refused)) as server:
        keys(monkeypatch, server.url)
        card = server.card("openai:gpt-x", max_retries=0)
        limit = {"max_tokens": 77, "allowance_usd": Decimal(1)}
        assert (await call(card, call=limit)).message is not None
        assert limits(server.requests[-1].body) == sent


async def test_the_cards_own_limit_goes_by_its_other_name_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with loopback(refusing("max_completion_tokens")) as server:
        keys(monkeypatch, server.url)
        card = server.card("openai:gpt-x", params={"max_tokens": 9})
        assert (await call(card, call={})).message is not None
        assert limits(server.requests[-1].body) == {"max_tokens": 9}


def test_a_limit_that_a_budget_needs_is_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback(refusing("max_completion_tokens", "max_tokens")) as server:
        keys(monkeypatch, server.url)
        pool = ModelPool([server.card("openai:gpt-x", max_retries=0)])
        with pytest.raises(AllCandidatesFailedError, match="a budget can't be kept without it"):
            XRouterNode(pool, budget=Budget(per_request_usd=1)).invoke(ASK)
        assert [bool(limits(asked.body)) for asked in server.requests] == [True, True]
        # Without one, an answer of any length will do.
        node = XRouterNode(pool)
        assert node.invoke(ASK)["messages"][0].text == "Paris."


async def test_a_refused_value_is_left_out_of_this_call_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        if body.get("temperature", 0) > 1:
            error = {"message": "temperature must be at most 1", "param": "temperature"}
            return 400, {"error": error}
        return plain_answer(path, body)

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        card, workers = server.card("openai:gpt-x", max_retries=0), Workers()
        assert (await call(card, workers, call={"temperature": 1.5})).message is not None
        assert (await call(card, workers, call={"temperature": 0.5})).message is not None
        assert [asked.body.get("temperature") for asked in server.requests] == [1.5, None, 0.5]


async def test_a_bad_request_of_another_kind_is_no_refused_parameter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    error = {"message": "messages: the first must be the user's", "param": "messages"}
    with loopback(lambda path, body, number: (400, {"error": error})) as server:
        keys(monkeypatch, server.url)
        result = await call(server.card("openai:gpt-x"), call={"temperature": 0.2})
        assert (result.error, len(server.requests)) == (ErrorClass.BAD_REQUEST, 1)


async def test_the_cards_own_lower_limit_stays_under_a_budgets(server: Loopback) -> None:
    card = server.card("openai:gpt-x", params={"max_tokens": 9})
    await call(card, call={"max_tokens": 77})
    assert set(limits(server.requests[0].body).values()) == {9}


async def test_a_server_that_refuses_stream_options_is_asked_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answer(path: str, body: dict[str, Any], number: int) -> Answer:
        if "stream_options" in body:
            return 400, {"error": {"message": "Unrecognized argument: stream_options"}}
        return 500, {"error": {"message": "enough"}}

    with loopback(answer) as server:
        keys(monkeypatch, server.url)
        card = server.card("openai:gpt-x", max_retries=0, params={"streaming": True})
        await call(card, call={})
        assert ["stream_options" in asked.body for asked in server.requests] == [True, False]


@pytest.mark.parametrize(
    ("provider", "option", "sent"),
    [
        ("google_genai:gemini-2.5-flash", {"max_tokens": 77}, ("generationConfig", 77)),
        ("ollama:llama-x", {"max_tokens": 77}, ("options", 77)),
        ("ollama:llama-x", {"temperature": 0.3}, ("options", None)),
    ],
)
async def test_what_a_providers_own_package_refuses_is_one_that_the_model_refuses(
    monkeypatch: pytest.MonkeyPatch, provider: str, option: dict[str, Any], sent: tuple[str, Any]
) -> None:
    place, value = sent
    with loopback() as server:
        keys(monkeypatch, server.url)
        card = server.card(provider, max_retries=0)
        result = await call(card, call={}, call_options=option)
        assert result.message is not None, result.detail
        [refused, answered] = result.charges
        # Nothing was sent the first time.
        assert (refused.error, refused.cost_usd, len(server.requests)) == ("bad_request", 0, 1)
        assert answered.error is None
        given = server.requests[0].body.get(place) or {}
        assert next((n for n in given.values() if n in (77, 0.3)), None) == value


async def test_a_request_that_no_package_would_send_is_a_bad_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with loopback() as server:
        keys(monkeypatch, server.url)
        card = server.card("openai:gpt-x", max_retries=2)
        result = await call(card, call={}, call_options={"colour": "red"})
        assert (result.error, len(result.charges)) == ("bad_request", 1)
        assert result.charges[0].cost_usd == 0


@pytest.mark.parametrize("provider", ["openai:gpt-x", "perplexity:sonar"])
async def test_a_limit_is_lifted_from_no_depth(
    monkeypatch: pytest.MonkeyPatch, provider: str
) -> None:
    with loopback() as server:
        keys(monkeypatch, server.url)
        deep = {"model_kwargs": {"extra_body": {"max_tokens": 9000, "top_k": 3}}}
        card = server.card(provider, max_retries=0, params=deep)
        result = await call(card, call={"max_tokens": 77})
        assert result.message is not None, result.detail
        body = server.requests[0].body
        assert body["top_k"] == 3
        assert {body[name] for name in LIMITS if body.get(name)} == {77}
