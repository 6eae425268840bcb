"""A package that nobody here wrote brings a policy and a verifier by its entry points."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.support.apps import ask, pool, record
from xrouter_lg import ChatXRouter, Recorder, XRouterNode, cli, plugins
from xrouter_lg.errors import PolicyConfigError, StoreError
from xrouter_lg.testing import FakeOpenAIServer
from xrouter_lg.tracing import TraceStore
from xrouter_lg.verifiers import build, names

STRANGER = Path(__file__).parents[1] / "support" / "stranger"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package with its metadata, as an installer leaves it on the path."""
    monkeypatch.syspath_prepend(str(STRANGER))
    plugins._all.cache_clear()
    yield
    plugins._all.cache_clear()


def test_its_policy_is_named_like_ours(installed: None, fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake), policy="by_topic")
    told = record(node.invoke(ask("Some code, please")))
    assert (told["route"], told["policy"]) == ("large", "topic")
    assert record(node.invoke(ask("Hi")))["route"] == "small"


def test_it_gets_what_stands_behind_the_colon(installed: None, fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake), policy="by_topic:poem")
    assert model.invoke("A poem").response_metadata["xrouter"]["route"] == "large"


def test_its_policy_stands_beside_another(installed: None, fake: FakeOpenAIServer) -> None:
    node = XRouterNode(pool(fake), policy="shadow:cheapest,by_topic")
    told = record(node.invoke(ask("code")))
    assert told["decisions"][0]["shadow"]["route"] == "large"


def test_one_that_can_not_be_loaded_is_named_with_its_place(
    installed: None, fake: FakeOpenAIServer
) -> None:
    with pytest.raises(PolicyConfigError, match="'broken' of xrouter_stranger:nothing can't be"):
        XRouterNode(pool(fake), policy="broken")


def test_an_unknown_policy_tells_what_packages_bring(
    installed: None, fake: FakeOpenAIServer
) -> None:
    with pytest.raises(PolicyConfigError, match="installed packages bring: broken, by_topic"):
        XRouterNode(pool(fake), policy="by_topics")


def test_its_verifier_is_named_like_ours_and_proves_itself(installed: None) -> None:
    assert "polite" in names()
    verifier = build("polite")
    assert verifier.verify("Yes, please.", "", {}).score == 1.0


def test_its_store_is_one_wherever_a_store_is_named(
    installed: None, fake: FakeOpenAIServer, tmp_path: Path
) -> None:
    with Recorder(f"cupboard://{tmp_path}") as recorder:
        XRouterNode(pool(fake), policy="cheapest", traces=recorder).invoke(ask("Hi"))
    assert (tmp_path / "traces.db").exists()
    with TraceStore(tmp_path / "traces.db") as store:
        assert [row.record.route for row in store.routes()] == ["small"]


def test_a_store_that_can_not_be_found_is_named_and_its_url_is_not_told(installed: None) -> None:
    with pytest.raises(StoreError, match="'lost' of xrouter_stranger:lost") as failed:
        TraceStore("lost://user:planted@host/db")
    assert "planted" not in str(failed.value)


def test_its_traces_are_imported_like_files(
    installed: None, fake: FakeOpenAIServer, tmp_path: Path
) -> None:
    with Recorder(tmp_path / "old.db") as recorder:
        XRouterNode(pool(fake), policy="cheapest", traces=recorder).invoke(ask("Hi"))
    with TraceStore(tmp_path / "old.db") as store:
        runs = [run for trace in store.iter_traces() for run in trace.runs]
    (tmp_path / "diary").write_text("\n".join(json.dumps(run, default=str) for run in runs))
    to = ["--store", str(tmp_path / "new.db")]
    done = CliRunner().invoke(cli.app, ["traces", "import", f"diary:{tmp_path}/diary", *to])
    assert done.exit_code == 0 and f"{len(runs)} runs" in done.output
    failed = CliRunner().invoke(cli.app, ["traces", "import", "diary:nowhere", *to])
    assert failed.exit_code == 2 and "'diary' of xrouter_stranger:diary failed" in failed.output
