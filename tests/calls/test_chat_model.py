"""From a card to a chat model."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_openai import AzureChatOpenAI, ChatOpenAI

from xrouter_lg.calls.chat_model import build_chat_model, is_local
from xrouter_lg.errors import MissingKeyError, PoolError
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FaultPlan,
    ScriptedChatModel,
    always,
    server_error,
)

LOCAL = "http://127.0.0.1:8101/v1"
REMOTE = "https://models.example.com/v1"


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "AZURE_OPENAI_API_KEY", "TEAM_KEY"):
        monkeypatch.delenv(name, raising=False)


def built(**fields: Any) -> ChatOpenAI:
    model = build_chat_model(ModelCard(name="a", **fields))
    assert isinstance(model, ChatOpenAI)
    return model


def key_of(model: ChatOpenAI) -> str:
    key = model.openai_api_key
    assert key is not None
    assert not callable(key)
    return key.get_secret_value()


@pytest.mark.parametrize("model", ["m", "openai:m"])
def test_a_server_on_this_machine_becomes_a_client_without_retries(model: str) -> None:
    client = built(model=model, base_url=LOCAL)
    assert (client.max_retries, client.openai_api_base, client.model_name) == (0, LOCAL, "m")


def test_a_provider_by_name_becomes_a_client_without_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    client = built(model="openai:gpt-5-mini")
    assert (client.max_retries, client.model_name) == (0, "gpt-5-mini")


def test_another_class_that_has_retries_is_built_without_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "x")
    monkeypatch.setenv("OPENAI_API_VERSION", "2025-01-01")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://x.example.com")
    model = build_chat_model(ModelCard(name="a", model="azure_openai:gpt-5-mini"))
    assert isinstance(model, AzureChatOpenAI)
    assert model.max_retries == 0


def test_a_failing_server_sees_one_attempt_of_a_built_model() -> None:
    plan = FaultPlan(default=always(server_error()))
    with FakeOpenAIServer([FakeModel(name="m")], faults=plan) as server:
        with pytest.raises(Exception, match="500"):
            built(model="m", base_url=server.base_url).invoke("hi")
        assert server.calls == {"m": 1}


def test_a_card_may_still_ask_for_retries_in_its_params() -> None:
    assert built(model="m", base_url=LOCAL, params={"max_retries": 3}).max_retries == 3


def test_usage_is_asked_for_in_streams() -> None:
    assert built(model="m", base_url=LOCAL).stream_usage is True


def test_params_reach_the_chat_model() -> None:
    assert built(model="m", base_url=LOCAL, params={"temperature": 0.3}).temperature == 0.3


def test_each_built_model_has_a_connection_pool_of_its_own() -> None:
    one, two = (built(model="m", base_url=LOCAL) for _ in range(2))
    assert one.http_async_client is not None
    assert one.http_async_client is not two.http_async_client


def test_a_chat_model_that_was_handed_in_is_used_as_it_is() -> None:
    model = ScriptedChatModel(["hi"])
    assert build_chat_model(ModelCard(name="a", model=model)) is model


# --- keys ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/v1", "http://localhost:1/v1", "http://[::1]:1/v1", "http://127.8.8.8/v1"],
)
def test_a_server_on_this_machine_needs_no_key(url: str) -> None:
    assert is_local(url)
    assert key_of(built(model="m", base_url=url)) == "not-needed"


@pytest.mark.parametrize(
    "url", [REMOTE, "http://10.0.0.5/v1", "http://localhost.evil.example/v1", "http://0.0.0.0/v1"]
)
def test_a_server_elsewhere_without_a_key_is_refused_with_card_and_fix(url: str) -> None:
    assert not is_local(url)
    with pytest.raises(MissingKeyError, match=r"card 'a': no API key for .*api_key_env"):
        build_chat_model(ModelCard(name="a", model="m", base_url=url))


def test_openais_key_is_not_sent_to_a_server_that_is_not_openais(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789")
    with pytest.raises(MissingKeyError, match="api_key_env"):
        build_chat_model(ModelCard(name="a", model="m", base_url=REMOTE))
    assert key_of(built(model="m", base_url=LOCAL)) == "not-needed"


def test_a_card_that_says_openai_uses_openais_key_through_a_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "proxy-key")
    assert key_of(built(model="openai:m", base_url=REMOTE)) == "proxy-key"


@pytest.mark.parametrize("url", [LOCAL, REMOTE, None])
def test_the_key_comes_out_of_the_named_variable(
    monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    monkeypatch.setenv("TEAM_KEY", "team-secret")
    model = "m" if url else "openai:m"
    assert key_of(built(model=model, base_url=url, api_key_env="TEAM_KEY")) == "team-secret"


def test_the_key_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM_KEY", "team-secret")
    with FakeOpenAIServer([FakeModel(name="m", reply="yes")], api_key="team-secret") as server:
        model = built(model="m", base_url=server.base_url, api_key_env="TEAM_KEY")
        assert model.invoke("hi").content == "yes"


def test_a_missing_key_of_a_provider_names_its_own_variable() -> None:
    with pytest.raises(
        MissingKeyError, match=r"card 'a': no API key for 'openai'; set OPENAI_API_KEY"
    ):
        build_chat_model(ModelCard(name="a", model="openai:gpt-5-mini"))


# --- what can't be built -------------------------------------------------------------------


def test_an_unknown_provider_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PoolError, match="unknown provider 'opnai' in model 'opnai:x'") as caught:
        build_chat_model(ModelCard(name="a", model="opnai:x"))
    assert "card 'a'" in str(caught.value)
    assert "anthropic" in str(caught.value)
    assert str(caught.value).endswith("xai")


def test_a_provider_whose_package_is_missing_names_the_pip_command() -> None:
    with pytest.raises(PoolError, match=r"card 'a': .*pip install langchain-cohere"):
        build_chat_model(ModelCard(name="a", model="cohere:command-r"))


def test_a_bad_param_is_refused_with_the_card_and_the_params_name() -> None:
    card = ModelCard(name="a", model="m", base_url=LOCAL, params={"temperature": "hot"})
    with pytest.raises(PoolError, match=r"card 'a': can't build its chat model: .*temperature"):
        build_chat_model(card)


def test_a_bad_param_beside_a_key_is_not_taken_for_a_missing_key() -> None:
    card = ModelCard(name="a", model="m", base_url=LOCAL, params={"n": 0})
    with pytest.raises(PoolError, match="n must be at least 1"):
        build_chat_model(card)


# --- the limit's keyword -------------------------------------------------------------------
