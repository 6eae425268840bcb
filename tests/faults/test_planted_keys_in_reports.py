"""Planted keys, looked for in what is learned, judged and shown of recorded requests, and in what a
failed command tells with ``--debug``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import httpx
import polars as pl
import pytest
from sqlalchemy import make_url
from typer.testing import CliRunner

from tests.dashboard.conftest import KEY
from tests.faults.test_planted_keys import CARD_KEY, IN_HEADER, IN_PROMPT, PLANTED, Echo
from tests.faults.test_planted_keys_beyond_requests import echo, telling
from tests.judge.test_live_traffic import run, texts
from tests.tracing.on_disk import readable
from xrouter_lg import Recorder
from xrouter_lg.cli import app
from xrouter_lg.dashboard.routes import Dashboard
from xrouter_lg.dashboard.source import DashboardSource
from xrouter_lg.serve.run import running
from xrouter_lg.testing import FakeOpenAIServer, FaultPlan, ScriptedChatModel, always

RUN = CliRunner()
IN_URL = "planted-passw0rd"
__all__ = ["echo"]


def told(*arguments: str, codes: Sequence[int] = (0,)) -> str:
    """All that a command prints, with ``--debug``."""
    found = RUN.invoke(app, [*arguments, "--debug"])
    assert found.exit_code in codes, found.output
    return f"{found.output} {found.stderr}"


def inside(path: Path) -> str:
    """A file as text: a table's compressed columns too."""
    if path.suffix == ".parquet":
        return str(pl.read_parquet(path).to_dicts())
    if path.suffix == ".db":
        return readable(path).decode("utf-8", "replace")
    return path.read_bytes().decode("utf-8", "replace")


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Requests with keys in them, recorded, learned from, promoted: ``t.db``, ``learning`` and
    ``checkpoints``, with what the command said."""
    folder = tmp_path_factory.mktemp("planted")
    asked = [f"{text}; my key: {IN_PROMPT} and {IN_HEADER}" for text in texts(160)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLANTED_KEY", CARD_KEY)
        run(folder / "t.db", "fixed:small", asked, exploration=1.0)
        folder.joinpath("said").write_text(
            told(
                *("learn", "--store", str(folder / "t.db"), "--feedback", "good"),
                *("--folder", str(folder / "learning")),
                *("--checkpoints", str(folder / "checkpoints")),
                codes=(0, 3),
            )
        )
    return folder


def test_no_planted_key_is_in_a_manifest_a_table_or_a_report(learned: Path, echo: Echo) -> None:
    store = ("--store", str(learned / "t.db"))
    said = [
        told("savings", *store, "--json"),
        told("traces", "list", *store, "--json"),
        told("drift", *store, "--feedback", "good", "--json", codes=(0, 1, 2)),
        echo.text.getvalue(),
    ]
    left = [path for path in learned.rglob("*") if path.is_file()]
    assert any(path.name == "manifest.json" for path in left)
    assert any(path.suffix == ".parquet" for path in left)
    said += [inside(path) for path in left]
    assert any("[redacted]" in text for text in said)
    for text in said:
        for key in PLANTED:
            assert key not in text


def test_no_planted_key_is_in_the_dashboard(learned: Path, echo: Echo) -> None:
    source = DashboardSource(
        store=str(learned / "t.db"), checkpoints=learned / "checkpoints", feedback="good"
    )
    said: list[str] = []
    with running(Dashboard(source, KEY).app()) as url:
        for key in (KEY, IN_PROMPT):
            for path in ("/dashboard", "/dashboard/data"):
                found = httpx.get(url + path, headers={"authorization": f"Bearer {key}"})
                said.append(f"{found.status_code} {found.headers} {found.text}")
    said.append(echo.text.getvalue())
    assert any("small" in text for text in said)
    for text in said:
        for key in (*PLANTED, KEY):
            assert key not in text


def test_a_provider_that_repeats_the_key_is_not_repeated_by_a_check(
    fake: FakeOpenAIServer, tmp_path: Path, echo: Echo
) -> None:
    fake.faults = FaultPlan({"small": always(telling())})
    pool = tmp_path / "pool.yaml"
    pool.write_text(
        "models:\n- name: small\n  model: openai:small\n  api_key_env: PLANTED_KEY\n"
        f"  base_url: {fake.base_url}\n  params: {{default_headers: {{X-Other: {IN_HEADER}}}}}\n"
    )
    for more in ([], ["--json"]):
        said = told("pool", "check", str(pool), "--live", *more, codes=(1,))
        assert "401" in said or "auth" in said
        for key in (CARD_KEY, IN_HEADER.split()[1]):
            assert key not in said + echo.text.getvalue()


@pytest.mark.parametrize("command", ["savings", "traces list", "drift"])
def test_a_stores_password_is_in_no_error(command: str) -> None:
    url = f"postgresql+psycopg://someone:{IN_URL}@127.0.0.1:1/none"
    said = told(*command.split(), "--store", url, codes=(1, 2, 70))
    assert said.strip() and IN_URL not in said


def test_a_stores_password_is_in_nothing_that_a_command_writes(
    postgres_url: str, fake: FakeOpenAIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = make_url(postgres_url).set(password=IN_URL).render_as_string(hide_password=False)
    with Recorder(url) as recorder:
        ScriptedChatModel(["hello"]).invoke("hi", {"callbacks": [recorder]})
    said = told("traces", "list", "--store", url)
    said += told("init", "--traces", url) + told("doctor", "--store", url, codes=(0, 1))
    said += (tmp_path / "pool.yaml").read_text()
    assert "pool of the models" in said and IN_URL not in said
