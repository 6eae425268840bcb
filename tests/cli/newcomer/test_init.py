"""``xrouter init``: what it writes loads, holds no key, and says only what is published."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langsmith import Client
from langsmith.run_helpers import tracing_context
from typer.testing import CliRunner

from tests.support.langsmith_server import LangSmithServer
from xrouter_lg import ModelPool, Recorder, TraceStore, XRouterNode
from xrouter_lg.calls.check_pool import check_pool
from xrouter_lg.cli import app
from xrouter_lg.cli.newcomer.providers import PROVIDERS, Provider
from xrouter_lg.pool.pricing import published_price
from xrouter_lg.pool.profiles import profile_of
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, ScriptedChatModel

SECRET = "sk-never-shown-0123456789"


@pytest.fixture(autouse=True)
def no_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for provider in PROVIDERS:
        monkeypatch.delenv(provider.variable, raising=False)


def init(*args: str, **env: str) -> Any:
    return CliRunner().invoke(app, ["init", *args], env=env)


@pytest.mark.parametrize("provider", PROVIDERS, ids=lambda provider: provider.name)
def test_the_models_of_a_key_are_published_ones_and_can_be_built(
    provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = init(**{provider.variable: SECRET})
    assert found.exit_code == 0, found.output
    pool = ModelPool.from_yaml("pool.yaml")
    assert 2 <= len(pool) <= 3
    for card in pool:
        assert card.api_key_env == provider.variable and card.provider == provider.name
        assert profile_of(provider.name, card.model_name) is not None
        assert card.effective_price is not None
    monkeypatch.setenv(provider.variable, SECRET)
    assert check_pool(pool).ok
    assert SECRET not in Path("pool.yaml").read_text() + found.output


def test_the_prices_in_its_comments_are_the_published_ones() -> None:
    text = init("--dry-run", OPENAI_API_KEY=SECRET, ANTHROPIC_API_KEY=SECRET).stdout
    written = re.findall(
        r"model: (\w+):(\S+)\n.*\n.*\n    # price: {input: ([\d.]+), output: ([\d.]+)}", text
    )
    assert len(written) == 6
    for provider, model, into, out in written:
        price = published_price(provider, model)
        assert price is not None
        assert (price.input, price.output) == (Decimal(into), Decimal(out))


def test_a_dry_run_prints_the_file_and_writes_nothing() -> None:
    shown = init("--dry-run", OPENAI_API_KEY=SECRET).stdout
    assert not Path("pool.yaml").exists()
    assert init(OPENAI_API_KEY=SECRET).exit_code == 0
    assert Path("pool.yaml").read_text() == shown


def test_a_folder_that_is_not_there_is_told_with_what_to_do() -> None:
    found = init("--output", "gone/pool.yaml", OPENAI_API_KEY=SECRET)
    assert found.exit_code == 2
    assert "can't write 'gone/pool.yaml': No such file or directory; name another" in found.stderr


def test_a_file_that_is_there_is_left_as_it_is() -> None:
    Path("pool.yaml").write_text("mine")
    found = init(OPENAI_API_KEY=SECRET)
    assert found.exit_code == 2 and "'pool.yaml' is there already" in found.stderr
    assert Path("pool.yaml").read_text() == "mine"
    assert init("--output", "other.yaml", OPENAI_API_KEY=SECRET).exit_code == 0


def test_without_a_key_the_file_says_what_to_set_and_its_cards_answer() -> None:
    found = json.loads(init("--json").stdout)
    assert found["keys"] == [] and found["written"]
    for provider in PROVIDERS:
        assert provider.variable in found["text"]
    models = [FakeModel(name="small", reply="Paris."), FakeModel(name="large", reply="It is.")]
    with FakeOpenAIServer(models) as server:
        file = Path("pool.yaml")
        file.write_text(re.sub(r"http://\S+/v1", server.base_url, file.read_text()))
        node = XRouterNode(ModelPool.from_yaml(file), policy="fixed:small")
        said = node.invoke({"messages": [HumanMessage("What is the capital of France?")]})
    assert said["messages"][-1].content == "Paris."


def test_an_empty_variable_is_no_key() -> None:
    assert json.loads(init("--json", "--dry-run", OPENAI_API_KEY=" ").stdout)["keys"] == []


def test_a_provider_without_its_package_is_named_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Provider, "installed", property(lambda self: self.name != "xai"))
    found = init(XAI_API_KEY=SECRET)
    assert "pip install langchain-xai" in found.stdout
    assert len(ModelPool.from_yaml("pool.yaml")) == 2


# --- from an app's own traces ----------------------------------------------------------------


class _Hosted(ScriptedChatModel):
    """Says whose it is, as a provider's class does."""

    provider: str = "openai"

    def _get_ls_params(self, stop: Any = None, **options: Any) -> Any:
        found = super()._get_ls_params(stop, **options)
        return {**found, "ls_provider": self.provider, "ls_model_name": self.model_name}


def recorded(path: Path) -> None:
    """An app without a router that calls a published model three times, and a local one once."""
    with Recorder(path) as recorder:
        for model, times in (
            (_Hosted(script=["hello"] * 3, model_name="gpt-5-nano"), 3),
            (_Hosted(script=["hello"], model_name="my: own\n'model'", provider="openai"), 1),
        ):
            for _ in range(times):
                model.invoke("What is the capital of France?", {"callbacks": [recorder]})
        recorder.flush(30)


def test_the_models_of_an_apps_traces_become_a_pool() -> None:
    recorded(Path("t.db"))
    dry = init("--traces", "t.db", "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert not Path("pool.yaml").exists()
    done = init("--traces", "t.db")
    assert Path("pool.yaml").read_text() == dry.stdout
    pool = ModelPool.from_yaml("pool.yaml")
    assert pool.default == "gpt_5_nano" and len(pool) == 2
    nano, own = pool
    assert (nano.provider, nano.model_name) == ("openai", "gpt-5-nano")
    assert nano.api_key_env == "OPENAI_API_KEY" and nano.effective_price is not None
    assert own.effective_price is None and own.model_name == "my: own\n'model'"
    assert "# 3 calls" in dry.stdout and "no published price" in dry.stdout
    assert "OPENAI_API_KEY" in done.stdout and "next: xrouter pool check" in done.stdout


def test_what_was_used_is_told_as_json() -> None:
    recorded(Path("t.db"))
    told = json.loads(init("--traces", "t.db", "--dry-run", "--json").stdout)
    assert (told["used"][0]["model"], told["used"][0]["calls"]) == ("gpt-5-nano", 3)
    assert told["to_set"] == ["OPENAI_API_KEY"] and told["written"] is False


def test_traces_without_a_model_are_refused() -> None:
    TraceStore("t.db").close()
    found = init("--traces", "t.db")
    assert found.exit_code == 2 and "no model was called in 0 traces" in found.stderr
    both = init("--traces", "t.db", "--langsmith", "p")
    assert both.exit_code == 2 and "name one" in both.stderr


def test_the_models_of_a_langsmith_project_become_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    with LangSmithServer() as server:
        monkeypatch.setenv("LANGSMITH_ENDPOINT", server.url)
        monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_test")
        client = Client()
        with tracing_context(enabled=True, client=client, project_name="p"):
            _Hosted(script=["hello"], model_name="gpt-5-nano").invoke("hi")
        client.flush()
        found = init("--langsmith", "p", "--dry-run")
    assert found.exit_code == 0, found.output
    assert "LangSmith's project p" in found.stdout and 'model: "openai:gpt-5-nano"' in found.stdout
