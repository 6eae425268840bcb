"""`xrouter pool check`: what it finds, what it shows, and how it ends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from xrouter_lg import testing
from xrouter_lg.calls.check_pool import FIXES, PoolReport, call_each, check_pool
from xrouter_lg.cli.pool import app
from xrouter_lg.errors import ErrorClass
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.pool.price_list import price_list
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan

PLANTED = "sk-planted-9f8e7d6c5b4a"
LOCAL = "http://127.0.0.1:9/v1"
COMPLETE: dict[str, Any] = {
    "price": {"input": 1, "output": 2, "cached_input": 0.5},
    "context_window": 4096,
    "max_output_tokens": 512,
    "description": "short answers",
}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_ADMIN_KEY", raising=False)
    monkeypatch.delenv("TEAM_KEY", raising=False)
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def server() -> Iterator[FakeOpenAIServer]:
    models = [FakeModel(name=name, reply="ok") for name in ("small", "large")]
    with FakeOpenAIServer(models) as running:
        yield running


def card(name: str = "small", **fields: Any) -> dict[str, Any]:
    return {"name": name, "model": name, "base_url": LOCAL, **COMPLETE, **fields}


def pair(**fields: Any) -> list[dict[str, Any]]:
    return [card("small", **fields), card("large")]


def without(*names: str, **fields: Any) -> dict[str, Any]:
    return {key: value for key, value in card(**fields).items() if key not in names}


def report(*cards: dict[str, Any] | ModelCard) -> PoolReport:
    made = [it if isinstance(it, ModelCard) else ModelCard(**it) for it in cards]
    return check_pool(ModelPool([*made, ModelCard(**card("zz_other"))]))


def texts(found: PoolReport, code: str) -> list[str]:
    return [finding.text for finding in found.findings if finding.code == code]


def run(path: Path, *options: str, cards: list[dict[str, Any]] | None = None) -> Result:
    if cards is not None:
        path.write_text(yaml.safe_dump({"models": cards}))
    return CliRunner().invoke(app, ["check", str(path), *options])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.yaml"


# --- what a check finds --------------------------------------------------------------------


def test_two_complete_cards_on_this_machine_leave_nothing_to_say() -> None:
    found = report(card())
    assert found.findings == ()
    assert found.ok


def test_one_card_alone_is_told() -> None:
    found = check_pool(ModelPool([ModelCard(**card())]))
    assert [finding.code for finding in found.findings] == ["one_card"]
    assert found.ok


@pytest.mark.parametrize(
    ("field", "code", "words"),
    [
        ("price", "no_price", "under any budget it is never called"),
        ("context_window", "no_context_window", "found only when the provider refuses"),
        ("max_output_tokens", "no_max_output_tokens", "reserves 4096 output tokens"),
        ("description", "no_description", "by name and price alone"),
    ],
)
def test_what_a_card_leaves_out_is_told_with_what_it_means(
    field: str, code: str, words: str
) -> None:
    found = report(without(field))
    assert [(it.code, it.card, it.level) for it in found.findings] == [(code, "small", "warning")]
    assert words in found.findings[0].text
    assert found.ok


def openai_card(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> dict[str, Any]:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    return {**without("base_url"), "model": "openai:gpt-4o-mini", **fields}


def test_a_price_unlike_the_published_one_is_told_with_both(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    price = {"input": 0.2, "output": 0.6}
    found = report(openai_card(monkeypatch, price=price))
    (text,) = texts(found, "price_differs")
    assert f"price.input is 0.2 on the card and 0.15 in {price_list()}" in text


def test_a_price_that_equals_the_published_one_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    price = {"input": "0.150", "output": 0.6, "cached_input": 0.075}
    assert texts(report(openai_card(monkeypatch, price=price)), "price_differs") == []


def test_a_published_price_fills_in_for_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(openai_card(monkeypatch, price=None))
    assert found.cards[0].price_source == price_list()
    assert texts(found, "no_price") == []


def test_a_window_that_the_list_knows_is_suggested(monkeypatch: pytest.MonkeyPatch) -> None:
    # A model that LangChain has no profile of.
    unknown = openai_card(monkeypatch, model="openai:gpt-4o-audio-preview", context_window=None)
    (text,) = texts(report(unknown), "no_context_window")
    assert f"({price_list()} says 128000)" in text


def test_a_window_that_the_profile_knows_needs_no_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    found = report(openai_card(monkeypatch, context_window=None))
    assert texts(found, "no_context_window") == []
    assert found.cards[0].context_window == 128_000


def test_a_model_that_the_list_does_not_know_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = texts(report(openai_card(monkeypatch, model="openai:gpt-99")), "unknown_to_list")
    assert "does not know 'gpt-99' of provider 'openai'" in text


def test_a_known_model_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert texts(report(openai_card(monkeypatch)), "unknown_to_list") == []


def test_a_deprecated_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from genai_prices import Usage, calc_price

    entry = calc_price(Usage(), "gpt-4o-mini", provider_id="openai").model
    monkeypatch.setattr(entry, "deprecated", True)
    (text,) = texts(report(openai_card(monkeypatch)), "deprecated")
    assert "'gpt-4o-mini' as deprecated" in text


def test_an_own_server_is_not_compared_with_any_list() -> None:
    found = report(card(model="gpt-4o-mini"))
    assert found.findings == ()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://models.example.com/v1", True),
        ("https://models.example.com/v1", False),
        ("http://127.0.0.1:9/v1", False),
        ("http://localhost:9/v1", False),
    ],
)
def test_plain_http_to_another_machine_is_told(
    monkeypatch: pytest.MonkeyPatch, url: str, told: bool
) -> None:
    monkeypatch.setenv("TEAM_KEY", "x")
    found = report(card(base_url=url, api_key_env="TEAM_KEY"))
    assert bool(texts(found, "plain_http")) is told


def test_an_unset_key_breaks_the_card_and_names_the_variable() -> None:
    found = report(card(api_key_env="TEAM_KEY"))
    (text,) = texts(found, "missing_key")
    assert "card 'small'" in text
    assert "TEAM_KEY" in text
    assert not found.ok


def test_a_provider_without_its_package_breaks_the_card() -> None:
    found = report(card(model="cohere:command-r", base_url=None))
    (text,) = texts(found, "broken")
    assert "pip install langchain-cohere" in text
    assert not found.ok


@pytest.mark.parametrize(
    ("fields", "variables", "state"),
    [
        ({"api_key_env": "TEAM_KEY"}, {"TEAM_KEY": "x"}, True),
        ({"api_key_env": "TEAM_KEY"}, {}, False),
        ({}, {}, None),
        ({"model": "openai:gpt-4o-mini", "base_url": None}, {"OPENAI_API_KEY": "x"}, True),
        ({"model": "openai:gpt-4o-mini", "base_url": None}, {}, False),
        ({"model": "cohere:command-r", "base_url": None}, {}, None),
    ],
    ids=["set", "unset", "not needed", "provider's set", "provider's unset", "can't tell"],
)
def test_the_key_is_shown_as_set_or_not(
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    variables: dict[str, str],
    state: bool | None,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert report(card(**fields)).cards[0].key_set is state


def test_the_default_card_is_marked() -> None:
    cards = [ModelCard(**card("a")), ModelCard(**card("b"))]
    found = check_pool(ModelPool(cards, default="b"))
    assert [it.name for it in found.cards if it.default] == ["b"]


def test_every_class_of_failure_of_a_call_has_a_fix() -> None:
    never_seen = {"truncated", "unknown", "circuit_open", "budget", "slow"}
    assert {kind.value for kind in FIXES} == {kind.value for kind in ErrorClass} - never_seen


# --- live calls ----------------------------------------------------------------------------


async def live(*cards: dict[str, Any], timeout_s: float | None = None) -> PoolReport:
    pool = ModelPool([ModelCard(**it) for it in cards])
    return check_pool(pool, await call_each(pool, timeout_s=timeout_s))


def at(server: FakeOpenAIServer, **fields: Any) -> list[dict[str, Any]]:
    cards = [card("small", **fields), card("large")]
    return [{**it, "base_url": server.base_url} for it in cards]


async def test_a_live_call_tells_model_tokens_and_usd(server: FakeOpenAIServer) -> None:
    found = await live(*at(server))
    result = found.cards[0].live
    assert result is not None
    line = server.bill.of("small").totals
    assert (result.ok, result.served_model) == (True, "small")
    assert (result.input_tokens, result.output_tokens) == (line.prompt_tokens, 1)
    # $1 in and $2 out per million
    assert result.cost_usd == f"{(line.prompt_tokens + 2) / 1e6:.6f}".rstrip("0")
    assert found.findings == ()


async def test_each_card_is_called_once_with_few_tokens(server: FakeOpenAIServer) -> None:
    await live(*at(server))
    assert server.calls == {"small": 1, "large": 1}
    assert {
        request.body.get("max_tokens", request.body.get("max_completion_tokens"))
        for request in server.requests
    } == {16}


async def test_cards_are_called_at_the_same_time() -> None:
    answered: list[int] = []

    def reply(body: Any) -> str:
        answered.append(len(fake.bill))
        return "Yes."

    models = [FakeModel(name=name, latency_s=1.0, reply=reply) for name in ("small", "large")]
    with FakeOpenAIServer(models) as fake:
        await live(*at(fake))
    assert answered == [0, 0]


async def test_a_failing_card_is_called_once_and_told_with_class_and_fix(
    server: FakeOpenAIServer,
) -> None:
    server.faults = FaultPlan({"small": testing.always(testing.server_error(503))})
    found = await live(*at(server))
    result = found.cards[0].live
    assert result is not None
    assert (result.ok, result.error) == (False, "server")
    assert result.fix == FIXES[ErrorClass.SERVER]
    assert server.calls["small"] == 1
    assert [it.card for it in found.findings if it.code == "live_failed"] == ["small"]
    assert not found.ok


async def test_the_given_timeout_goes_before_the_cards_own(server: FakeOpenAIServer) -> None:
    server.faults = FaultPlan({"small": testing.always(testing.hang())})
    found = await live(*at(server, timeout_s=60), timeout_s=0.2)
    assert found.cards[0].live is not None
    assert found.cards[0].live.error == "timeout"


async def test_the_cards_own_timeout_holds_otherwise(server: FakeOpenAIServer) -> None:
    server.faults = FaultPlan({"small": testing.always(testing.hang())})
    found = await live(*at(server, timeout_s=0.2))
    assert found.cards[0].live is not None
    assert found.cards[0].live.error == "timeout"


async def test_another_model_than_asked_for_is_told(server: FakeOpenAIServer) -> None:
    server.faults = FaultPlan({"small": testing.always(testing.wrong_model("tiny"))})
    (text,) = texts(await live(*at(server)), "other_model_served")
    assert "asked for 'small', and 'tiny' answered" in text


async def test_a_dated_version_of_the_model_is_what_was_asked_for() -> None:
    with FakeOpenAIServer([FakeModel(name="small", served_name="small-2026-01-01")]) as server:
        found = await live({**card(), "base_url": server.base_url})
    assert texts(found, "other_model_served") == []


async def test_an_answer_without_usage_is_told(server: FakeOpenAIServer) -> None:
    server.faults = FaultPlan({"small": testing.always(testing.missing_usage())})
    found = await live(*at(server))
    assert texts(found, "no_usage")
    assert found.cards[0].live is not None
    assert found.cards[0].live.cost_usd is None


async def test_an_answer_cut_at_the_checks_own_limit_is_an_answer() -> None:
    with FakeOpenAIServer([FakeModel(name="small", reply="word " * 50)]) as server:
        found = await live({**card(), "base_url": server.base_url})
    assert found.cards[0].live is not None
    assert found.cards[0].live.ok


async def test_a_model_that_thinks_beyond_the_limit_has_answered_too() -> None:
    thinker = FakeModel(name="small", reasoning_tokens=100)
    with FakeOpenAIServer([thinker]) as server:
        found = await live({**card(), "base_url": server.base_url})
    assert found.cards[0].live is not None
    assert found.cards[0].live.ok


async def test_a_card_that_cant_be_built_is_not_called(server: FakeOpenAIServer) -> None:
    found = await live(*at(server, api_key_env="TEAM_KEY"))
    assert found.cards[0].live is None
    assert server.calls == {"large": 1}
    assert [it.code for it in found.findings] == ["missing_key"]


# --- the command ---------------------------------------------------------------------------


def test_a_good_pool_ends_with_0_and_shows_its_cards(path: Path) -> None:
    result = run(path, cards=pair())
    assert result.exit_code == 0
    for shown in ("small *", "large", "1/2/0.5", "4096", "512", "structured_output"):
        assert shown in result.output
    assert "2 card(s), 0 error(s), 0 warning(s)" in result.output


def test_warnings_alone_end_with_0(path: Path) -> None:
    result = run(path, cards=[without("price")])
    assert result.exit_code == 0
    assert "warning  card 'small': no price is known" in result.output


def test_a_broken_card_ends_with_1(path: Path) -> None:
    result = run(path, cards=pair(api_key_env="TEAM_KEY"))
    assert result.exit_code == 1
    assert "error  card 'small': the environment variable TEAM_KEY is not set" in result.output


@pytest.mark.parametrize("text", ["models: [", "", "models: [{name: router, model: 'a:b'}]"])
def test_a_bad_file_ends_with_2_and_says_why(path: Path, text: str) -> None:
    path.write_text(text)
    result = run(path)
    assert result.exit_code == 2
    assert str(path) in result.stderr
    assert result.stdout == ""


def test_a_missing_file_ends_with_2(path: Path) -> None:
    assert run(path).exit_code == 2


@pytest.mark.parametrize("options", [["--timeout", "0"], ["--timeout", "soon"], ["--nonsense"]])
def test_bad_usage_ends_with_2(path: Path, options: list[str]) -> None:
    assert run(path, *options, cards=pair()).exit_code == 2


def test_without_live_no_server_is_called(path: Path, server: FakeOpenAIServer) -> None:
    assert run(path, cards=at(server)).exit_code == 0
    assert server.calls == {}


def test_live_shows_what_each_card_gave(path: Path, server: FakeOpenAIServer) -> None:
    result = run(path, "--live", cards=at(server))
    assert result.exit_code == 0
    assert "served" in result.output
    assert server.calls == {"small": 1, "large": 1}


def test_a_failed_live_call_ends_with_1(path: Path, server: FakeOpenAIServer) -> None:
    server.faults = FaultPlan({"small": testing.always(testing.auth_error())})
    result = run(path, "--live", cards=at(server))
    assert result.exit_code == 1
    assert "the live call failed (auth)" in result.output
    assert FIXES[ErrorClass.AUTH] in result.output


def test_the_timeout_option_reaches_the_calls(path: Path, server: FakeOpenAIServer) -> None:
    server.faults = FaultPlan({"small": testing.always(testing.hang())})
    result = run(path, "--live", "--timeout", "0.2", cards=at(server))
    assert "the live call failed (timeout)" in result.output


def test_json_is_one_object_with_all_that_the_report_holds(path: Path) -> None:
    result = run(path, "--json", cards=[without("price")])
    data = json.loads(result.stdout)
    assert data["ok"] is True
    names = {field.name for field in dataclasses.fields(PoolReport)}
    assert set(data) == names | {"ok"}
    assert [it["code"] for it in data["findings"]] == ["one_card", "no_price"]
    assert data["cards"][0]["price"] is None


def test_json_of_a_live_check_holds_the_results(path: Path, server: FakeOpenAIServer) -> None:
    data = json.loads(run(path, "--json", "--live", cards=at(server)).stdout)
    assert [it["live"]["ok"] for it in data["cards"]] == [True, True]


def test_json_of_a_bad_file_is_an_object_too(path: Path) -> None:
    path.write_text("models: [")
    result = run(path, "--json")
    assert result.exit_code == 2
    data = json.loads(result.stdout)
    assert data["ok"] is False
    assert "is not YAML" in data["error"]


@pytest.mark.parametrize("options", [[], ["--json"], ["--live"], ["--live", "--json"]])
def test_a_key_is_never_shown(
    path: Path, server: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    monkeypatch.setenv("TEAM_KEY", PLANTED)
    body = json.dumps({"error": {"message": f"Incorrect API key provided: {PLANTED}"}}).encode()
    echo = testing.faults.ErrorAnswer(kind="echo", status=401, body=body)
    server.faults = FaultPlan({"small": testing.always(echo)})
    result = run(path, *options, cards=at(server, api_key_env="TEAM_KEY"))
    assert "TEAM_KEY" in result.output
    assert "planted" not in result.output


def test_square_brackets_in_a_name_are_text_not_markup(path: Path) -> None:
    result = run(path, cards=pair(model="[red]m[/red]"))
    assert "[red]m[/red]" in result.output


def test_the_xrouter_command_finds_the_sub_command(path: Path) -> None:
    from xrouter_lg import cli

    path.write_text(yaml.safe_dump({"models": pair()}))
    result = CliRunner().invoke(cli.app, ["pool", "check", str(path)])
    assert result.exit_code == 0


def test_what_a_profile_says_stands_in_parentheses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", PLANTED)
    cards = [
        {"name": "a", "model": "openai:gpt-5-mini"},
        {"name": "b", "model": "openai:gpt-5-mini", "capabilities": ["tools"]},
    ]
    shown = run(tmp_path / "pool.yaml", cards=cards).stdout
    assert shown.count("(272000)") == 2
    assert "(vision)" in shown
    assert " tools " in shown
    facts = json.loads(run(tmp_path / "pool.yaml", "--json").stdout)["cards"]
    assert [card["from_profile"] for card in facts] == [
        ["capabilities", "context_window"],
        ["context_window"],
    ]
