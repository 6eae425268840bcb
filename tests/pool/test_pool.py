"""Cards and pools: what is taken, what is refused, and what is never shown."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_openai import ChatOpenAI

from xrouter_lg.calls.chat_model import build_chat_model
from xrouter_lg.errors import ConfigurationError, MissingKeyError, PoolError
from xrouter_lg.pool.card import ModelCard, normalise_name
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.pool.pricing import Price
from xrouter_lg.testing import ScriptedChatModel

PLANTED = "sk-planted-9f8e7d6c5b4a"
LOCAL = "http://127.0.0.1:8101/v1"


def card(name: str = "small", **fields: Any) -> ModelCard:
    return ModelCard(**{"name": name, "model": "m", "base_url": LOCAL, **fields})


def refused(message: str, build: Callable[[], object]) -> str:
    with pytest.raises(PoolError, match=message) as caught:
        build()
    return str(caught.value)


def whole_text(error: BaseException) -> str:
    """Everything that a log would show of an error, causes included."""
    return "".join(traceback.format_exception(error)) + repr(error)


# --- names ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_name", "normal"),
    [
        ("Small", "small"),
        (" qwen2.5-0.5b ", "qwen2_5_0_5b"),
        ("org/model v1", "org_model_v1"),
        ("a -./ b", "a_b"),
        ("_7", "_7"),
        ("x" * 59, "x" * 59),
    ],
)
def test_a_name_becomes_a_tool_name(given_name: str, normal: str) -> None:
    assert card(given_name).tool_name == f"call_{normal}"


@pytest.mark.parametrize("name", ["", "   ", "größe", "a$b", "模型", "a:b", "x" * 60, "a\x00"])
def test_a_name_that_can_be_no_tool_name_is_refused_with_its_value(name: str) -> None:
    text = refused("can't become the tool name", lambda: card(name))
    assert repr(name) in text
    assert "1 to 59" in text


@pytest.mark.parametrize("name", [None, 3, True, ["a"]])
def test_a_name_that_is_no_text_is_refused(name: Any) -> None:
    refused("must be text", lambda: card(name))


@pytest.mark.parametrize("name", ["router", "Router", " ROUTER "])
def test_the_name_of_the_router_itself_is_reserved(name: str) -> None:
    refused("reserved for answers by the router itself", lambda: card(name))


@given(st.text(max_size=70))
def test_any_text_is_either_a_valid_tool_name_or_a_pool_error(text: str) -> None:
    try:
        name = normalise_name(text)
    except PoolError:
        return
    assert re.fullmatch(r"[a-z0-9_]{1,59}", name)
    assert name != "router"
    assert normalise_name(name) == name


# --- fields --------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["", None, 3, ["openai:gpt-5"]])
def test_a_model_that_is_neither_text_nor_chat_model_is_refused(model: Any) -> None:
    text = refused("give an init_chat_model string", lambda: card(model=model))
    assert "card 'small'" in text


def test_a_model_without_provider_or_base_url_is_refused() -> None:
    refused("names no provider", lambda: ModelCard(name="small", model="gpt-5-mini"))


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8101",
        "ftp://host/v1",
        "http://",
        "",
        "http:///v1",
        8101,
        "http://a b/v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        " http://host",
        "http://[::1/v1",
    ],
)
def test_a_bad_base_url_is_refused_with_its_value(url: Any) -> None:
    assert repr(url) in refused("must be a URL that starts with http", lambda: card(base_url=url))


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/v1", "https://api.example.com", LOCAL + "/"])
def test_a_good_base_url_is_taken_as_it_is(url: str) -> None:
    assert card(base_url=url).base_url == url


@pytest.mark.parametrize("name", ["context_window", "max_output_tokens"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "4096", True, float("nan")])
def test_a_limit_that_is_no_whole_number_is_refused(name: str, value: Any) -> None:
    text = refused("whole number", lambda: card(**{name: value}))
    assert f"{name} is {value!r}" in text


@pytest.mark.parametrize("value", [0, -1, True, "30", None, float("nan"), float("inf")])
def test_a_timeout_that_is_no_number_of_seconds_is_refused(value: Any) -> None:
    refused("timeout_s is", lambda: card(timeout_s=value))


@pytest.mark.parametrize("value", [-1, 1.0, True, None])
def test_a_bad_number_of_retries_is_refused(value: Any) -> None:
    refused("max_retries is", lambda: card(max_retries=value))


def test_no_retries_is_a_good_number_of_retries() -> None:
    assert card(max_retries=0).max_retries == 0


def test_an_unknown_capability_is_refused_with_the_known_ones() -> None:
    text = refused("unknown capability 'telepathy'", lambda: card(capabilities=["telepathy"]))
    assert "audio, files, reasoning, structured_output, tools, video, vision" in text


@pytest.mark.parametrize("value", [5, True])
def test_capabilities_that_are_no_list_are_refused(value: Any) -> None:
    refused("capabilities is", lambda: card(capabilities=value))


def test_a_single_capability_may_be_plain_text() -> None:
    assert card(capabilities="tools").capabilities == {"tools"}


def test_a_description_that_is_no_text_is_refused() -> None:
    refused("description is 5", lambda: card(description=5))


@pytest.mark.parametrize("params", [3, ["a"], "temperature=0"])
def test_params_that_are_no_mapping_are_refused(params: Any) -> None:
    refused("params must be a mapping", lambda: card(params=params))


def test_params_with_a_key_that_is_no_text_are_refused() -> None:
    refused("keys must be text", lambda: card(params={1: 2}))


# --- prices --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [-0.1, "-1", float("nan"), float("inf"), "NaN", "Infinity", True, False, "$1", "", []]
)
@pytest.mark.parametrize("kind", ["input", "output", "cached_input", "cache_write", "reasoning"])
def test_a_price_that_is_no_amount_is_refused_with_card_kind_and_value(
    kind: str, value: Any
) -> None:
    price = {"input": 1, "output": 1, kind: value}
    text = refused("USD per million tokens", lambda: card(price=price))
    assert f"card 'small': price.{kind} is {value!r}" in text


@pytest.mark.parametrize("kind", ["input", "output"])
@pytest.mark.parametrize("missing", [True, False])
def test_a_price_without_input_or_output_is_refused(kind: str, missing: bool) -> None:
    price: dict[str, Any] = {"input": 1, "output": 1}
    if missing:
        del price[kind]
    else:
        price[kind] = None
    refused(f"price.{kind} is missing", lambda: card(price=price))


def test_an_unknown_kind_of_price_is_refused_with_the_known_ones() -> None:
    text = refused("unknown price 'outputs'", lambda: card(price={"input": 1, "outputs": 2}))
    assert "cached_input" in text


def test_kinds_of_price_that_are_no_text_are_refused_too() -> None:
    refused("unknown price 1", lambda: card(price={1: 2, "foo": 3}))


@pytest.mark.parametrize("value", [3, "cheap", [1, 2]])
def test_a_price_that_is_no_mapping_is_refused(value: Any) -> None:
    refused("give a mapping", lambda: card(price=value))


def test_a_price_of_zero_is_a_price() -> None:
    assert card(price={"input": 0, "output": 0}).estimate_usd(1000) == Decimal(0)


def test_floats_of_a_price_become_the_decimals_they_print_as() -> None:
    price = card(price={"input": 0.1, "output": 0.3}).effective_price
    assert price is not None
    assert (price.input, price.output) == (Decimal("0.1"), Decimal("0.3"))


def test_a_price_object_made_of_floats_can_price() -> None:
    assert Price(input=0.1, output=0.2).worst_case(10, 10) == Decimal("0.000003")  # type: ignore[arg-type]


def test_a_price_object_refuses_what_a_mapping_refuses() -> None:
    with pytest.raises(PoolError, match=r"price\.output is Decimal\('-1'\)"):
        Price(input=Decimal(1), output=Decimal(-1))


def test_the_published_price_is_used_when_a_card_has_none() -> None:
    price = ModelCard(name="a", model="openai:gpt-4o-mini").effective_price
    assert price is not None
    assert price.source.startswith("genai-prices ")


def test_the_cards_own_price_goes_before_the_published_one() -> None:
    own = ModelCard(name="a", model="openai:gpt-4o-mini", price={"input": 9, "output": 9})
    assert own.effective_price == Price(input=Decimal(9), output=Decimal(9))


def test_a_server_of_the_users_own_has_no_published_price_whatever_its_models_name() -> None:
    assert card(model="gpt-4o-mini").effective_price is None


def test_a_chat_model_that_talks_to_an_own_server_has_no_published_price_either() -> None:
    model = ChatOpenAI(model="gpt-4o-mini", base_url=LOCAL, api_key="x")
    assert ModelCard(name="a", model=model).effective_price is None


def test_the_estimate_is_none_while_the_price_is_unknown() -> None:
    assert card().estimate_usd(100) is None


def test_the_estimate_reckons_with_the_cards_own_output_limit() -> None:
    priced = card(price={"input": 1, "output": 10}, max_output_tokens=20)
    assert priced.estimate_usd(100, 50) == Decimal("0.0003")


# --- providers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "base_url", "provider", "name"),
    [
        ("openai:gpt-5-mini", None, "openai", "gpt-5-mini"),
        ("openai:qwen2.5:0.5b", LOCAL, "openai", "qwen2.5:0.5b"),
        ("llama3:8b", LOCAL, None, "llama3:8b"),
        ("qwen2.5:0.5b", LOCAL, None, "qwen2.5:0.5b"),
        ("Qwen/Qwen2.5", LOCAL, None, "Qwen/Qwen2.5"),
        ("bedrock_converse:a.b-v1:0", None, "bedrock_converse", "a.b-v1:0"),
    ],
)
def test_provider_and_model_name_are_told_apart(
    model: str, base_url: str | None, provider: str | None, name: str
) -> None:
    made = ModelCard(name="a", model=model, base_url=base_url)
    assert (made.provider, made.model_name) == (provider, name)


def test_the_providers_known_beside_a_base_url_are_langchains_own() -> None:
    with pytest.raises(PoolError) as caught:
        build_chat_model(ModelCard(name="a", model="nobody:x"))
    listed = str(caught.value).partition("init_chat_model knows ")[2].split(", ")
    assert len(listed) > 20
    for provider in listed:
        assert ModelCard(name="a", model=f"{provider}:x", base_url=LOCAL).provider == provider


def test_a_chat_model_tells_its_name_itself() -> None:
    assert ModelCard(name="a", model=ChatOpenAI(model="gpt-x", api_key="x")).model_name == "gpt-x"


# --- secrets -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pasted",
    [
        PLANTED,
        "AIzaSyPlanted0123456789abcdefghij",
        "gsk_Planted0123456789abcdef",
        "hf_PlantedPlantedPlantedPlanted",
        "AKIAPLANTED012345678",
        "PlantedMixedCase0123456789",
        "planted key with blanks",
        "PLANTED\n",
        "",
    ],
)
def test_a_key_pasted_where_its_variables_name_belongs_is_not_repeated(pasted: str) -> None:
    with pytest.raises(PoolError, match="NAME of an environment variable") as caught:
        card(api_key_env=pasted)
    if pasted:
        assert pasted.strip() not in whole_text(caught.value)


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "my_key", "_K2", "TOKEN_FOR_THE_SECOND_TEAM_2"])
def test_an_ordinary_name_of_a_variable_is_taken(name: str) -> None:
    assert card(api_key_env=name).api_key_env == name


@pytest.mark.parametrize("value", [12345, True, ["KEY"]])
def test_a_variables_name_that_is_no_text_is_refused(value: Any) -> None:
    refused("NAME of an environment variable", lambda: card(api_key_env=value))


@pytest.mark.parametrize(
    "param", ["api_key", "openai_api_key", "aws_secret_access_key", "password", "token"]
)
def test_a_secret_among_the_params_is_refused_and_not_repeated(param: str) -> None:
    with pytest.raises(PoolError, match=f"params.{param} would put a secret") as caught:
        card(params={param: PLANTED})
    assert PLANTED not in whole_text(caught.value)


@pytest.mark.parametrize("param", ["max_tokens", "stop_token_ids", "logprobs"])
def test_params_that_only_sound_secret_are_taken(param: str) -> None:
    assert card(params={param: 1}).params == {param: 1}


def test_a_password_in_the_base_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(PoolError, match="user name or password") as caught:
        card(base_url=f"https://me:{PLANTED}@host/v1")
    assert PLANTED not in whole_text(caught.value)


def test_a_missing_key_names_the_variable_and_the_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XROUTER_TEST_KEY", raising=False)
    with pytest.raises(MissingKeyError, match="XROUTER_TEST_KEY") as caught:
        build_chat_model(card(api_key_env="XROUTER_TEST_KEY"))
    assert "card 'small'" in str(caught.value)


def test_an_empty_key_is_a_missing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XROUTER_TEST_KEY", "")
    with pytest.raises(MissingKeyError):
        build_chat_model(card(api_key_env="XROUTER_TEST_KEY"))


def test_the_key_shows_in_no_text_of_card_pool_or_chat_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XROUTER_TEST_KEY", PLANTED)
    keyed = card(api_key_env="XROUTER_TEST_KEY")
    model = build_chat_model(keyed)
    assert isinstance(model, ChatOpenAI)
    pool = ModelPool([keyed, ModelCard(name="own", model=model)])
    shown = [it for thing in (keyed, pool, model, pool["own"]) for it in (repr(thing), str(thing))]
    shown += [repr(vars(keyed)), repr(keyed.fingerprint_data()), repr(vars(pool))]
    assert PLANTED not in " ".join(shown)


@pytest.mark.parametrize("params", [{"n": 0}, {"temperature": "hot"}, {"model_kwargs": 3}])
def test_the_key_is_in_no_traceback_of_a_card_that_cant_be_built(
    monkeypatch: pytest.MonkeyPatch, params: dict[str, Any]
) -> None:
    monkeypatch.setenv("XROUTER_TEST_KEY", PLANTED)
    with pytest.raises(ConfigurationError, match="can't build its chat model") as caught:
        build_chat_model(card(api_key_env="XROUTER_TEST_KEY", params=params))
    assert PLANTED not in whole_text(caught.value)


def test_the_key_is_in_no_traceback_of_a_constructor_that_repeats_its_arguments(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def talkative(**kwargs: Any) -> None:
        raise ValueError(f"can't work with {kwargs}")

    monkeypatch.setenv("XROUTER_TEST_KEY", PLANTED)
    monkeypatch.setattr("langchain_openai.ChatOpenAI", talkative)
    with pytest.raises(PoolError, match="can't work with") as caught:
        build_chat_model(card(api_key_env="XROUTER_TEST_KEY"))
    assert PLANTED not in whole_text(caught.value)


def test_params_may_hold_headers_and_so_are_not_shown() -> None:
    shown = repr(card(params={"default_headers": {"Authorization": PLANTED}}))
    assert PLANTED not in shown


# --- pools ---------------------------------------------------------------------------------


def test_a_pool_with_one_card_works() -> None:
    pool = ModelPool([card()])
    assert (len(pool), pool.default, pool.names) == (1, "small", ("small",))


def test_a_pool_without_a_card_is_refused() -> None:
    refused("the pool has no card", lambda: ModelPool([]))


def test_two_cards_of_one_name_are_refused() -> None:
    refused("two cards are named 'small'", lambda: ModelPool([card(), card()]))


def test_two_names_that_are_one_after_normalisation_are_refused() -> None:
    pair = [card("gpt-5.mini"), card("GPT 5/mini")]
    refused("two cards are named 'gpt_5_mini'", lambda: ModelPool(pair))


def test_something_that_is_no_card_is_refused() -> None:
    refused("it takes ModelCard objects", lambda: ModelPool([{"name": "a"}]))  # type: ignore[list-item]


def test_the_first_card_is_the_default_unless_said_otherwise() -> None:
    assert ModelPool([card("a"), card("b")]).default == "a"


def test_the_default_is_normalised_as_names_are() -> None:
    assert ModelPool([card("a"), card("b.c")], default="B.C").default == "b_c"


def test_a_default_that_is_no_card_is_refused_with_the_cards() -> None:
    text = refused("default is 'z'", lambda: ModelPool([card("a"), card("b")], default="z"))
    assert "cards: a, b" in text


def test_an_unknown_way_with_truncated_answers_is_refused() -> None:
    refused("on_truncated is 'ignore'", lambda: ModelPool([card()], on_truncated="ignore"))  # type: ignore[arg-type]


def test_asking_for_an_unknown_card_names_the_known_ones() -> None:
    refused("no card is named 'z'; cards: small", lambda: ModelPool([card()])["z"])


def test_a_pool_made_in_code_is_its_own_newest_version() -> None:
    pool = ModelPool([card()])
    assert pool.current() is pool


# --- fingerprint ---------------------------------------------------------------------------


def fingerprint(**fields: Any) -> str:
    return ModelPool([card(**fields), card("other")]).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"price": {"input": 1, "output": 3}},
        {"price": {"input": 1, "output": 2, "cached_input": 0.5}},
        {"model": "n"},
        {"base_url": "http://127.0.0.1:9/v1"},
        {"context_window": 10},
        {"max_output_tokens": 10},
        {"capabilities": ["vision"]},
        {"description": "d"},
        {"params": {"temperature": 0}},
        {"name": "renamed"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_fingerprint_changes_with_what_a_card_is(change: dict[str, Any]) -> None:
    same: dict[str, Any] = {"price": {"input": 1, "output": 2}}
    assert fingerprint(**same) == fingerprint(**same)
    assert fingerprint(**{**same, **change}) != fingerprint(**same)


def test_the_fingerprint_changes_with_the_default() -> None:
    cards = [card("a"), card("b")]
    assert ModelPool(cards).fingerprint != ModelPool(cards, default="b").fingerprint


def test_the_fingerprint_does_not_depend_on_the_order_of_keys() -> None:
    one = {"a": {"x": 1, "y": {"p": 1, "q": 2}}, "b": 2}
    two = {"b": 2, "a": {"y": {"q": 2, "p": 1}, "x": 1}}
    assert fingerprint(params=one) == fingerprint(params=two)


def test_the_fingerprint_does_not_depend_on_where_an_object_lies_in_memory() -> None:
    assert fingerprint(params={"client": object()}) == fingerprint(params={"client": object()})


def test_a_scripted_chat_model_makes_a_card_too() -> None:
    model = ScriptedChatModel(["hi"])
    assert ModelCard(name="a", model=model).model is model
