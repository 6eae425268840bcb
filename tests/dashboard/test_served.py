"""``xrouter serve --dashboard``: on the same server, behind a key of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from tests.dashboard.conftest import KEY
from tests.support.apps import pool
from xrouter_lg import ChatXRouter, Recorder
from xrouter_lg.cli import app
from xrouter_lg.cli.server.serve import KEY_VARIABLE, add_dashboard
from xrouter_lg.serve.access.keys import KeyStore
from xrouter_lg.serve.app import create_app
from xrouter_lg.serve.engine import routed
from xrouter_lg.serve.run import running
from xrouter_lg.testing import FakeOpenAIServer

_POOL = "models: [{name: small, model: small, base_url: 'http://127.0.0.1:1/v1'}]"


@pytest.fixture
def clients_key(tmp_path: Path) -> str:
    return KeyStore(tmp_path / "keys.db").add("alice")


@pytest.fixture
def served(
    fake: FakeOpenAIServer,
    tmp_path: Path,
    clients_key: str,
    checkpoints: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:
    """A server with clients' keys and a dashboard; no pool file is needed to show what is there."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    (tmp_path / "pool.yaml").write_text(_POOL)
    with Recorder(tmp_path / "t.db") as recorder:
        chat = ChatXRouter(routed(pool(fake), policy="cheapest"), traces=recorder)
        server = create_app(chat, keys=KeyStore(tmp_path / "keys.db"))
        path = add_dashboard(
            server, str(tmp_path / "t.db"), checkpoints, tmp_path / "pool.yaml", "127.0.0.1"
        )
        assert path == "/dashboard"  # a key that was set is not shown
        with running(server) as url:
            yield url


def data(url: str, key: str) -> httpx.Response:
    return httpx.get(f"{url}/dashboard/data", headers={"authorization": f"Bearer {key}"})


def test_a_request_is_seen_with_the_state_of_the_cards(served: str, clients_key: str) -> None:
    body = {"model": "xrouter", "messages": [{"role": "user", "content": "seen by the dashboard"}]}
    asked = httpx.post(
        f"{served}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {clients_key}"},
    )
    assert asked.status_code == 200, asked.text
    for _ in range(200):
        now = data(served, KEY).json()["now"]
        if now["decisions"]:
            break
    assert now["decisions"][0]["text"] == "seen by the dashboard"
    assert now["cards"] == {"small": "ok", "large": "ok"}


def test_a_clients_key_does_not_open_it_and_its_key_asks_nothing(
    served: str, clients_key: str
) -> None:
    assert data(served, clients_key).status_code == 401
    asked = httpx.get(f"{served}/v1/models", headers={"authorization": f"Bearer {KEY}"})
    assert asked.status_code == 401
    assert "dashboard" not in httpx.get(f"{served}/openapi.json").text


@pytest.mark.parametrize(
    ("options", "variable", "words"),
    [
        ([], None, "--traces"),
        (["--traces", "t.db"], "short", "has 5 characters; give at least 20"),
    ],
    ids=["nothing to show", "a key that can be guessed"],
)
def test_what_it_lacks_is_told_before_anything_listens(
    options: list[str],
    variable: str | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pool.yaml").write_text(_POOL)
    env = {} if variable is None else {KEY_VARIABLE: variable}
    found = CliRunner().invoke(
        app, ["serve", "--pool", "pool.yaml", "--dashboard", *options], env=env
    )
    assert found.exit_code == 2 and words in found.stderr
