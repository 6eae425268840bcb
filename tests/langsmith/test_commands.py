"""``xrouter traces pull`` and ``push`` as a user types them, and the demo."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from integrations.langsmith.__main__ import main
from tests.langsmith.conftest import KEY, PROJECT, add_trace, days_ago, stored, there
from tests.support.langsmith_server import LangSmithServer, forget_variables
from xrouter_lg import cli
from xrouter_lg.langsmith.connection import LangSmith
from xrouter_lg.tracing.store.trace_store import TraceStore


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> Iterator[LangSmithServer]:
    """A server that demands the key, which is in the environment."""
    monkeypatch.setenv("LANGSMITH_API_KEY", KEY)
    forget_variables()
    with LangSmithServer(key=KEY) as running:
        running.session(PROJECT)
        monkeypatch.setenv("LANGSMITH_ENDPOINT", running.url)
        yield running
    forget_variables()


def xrouter(*args: str | Path) -> Any:
    return CliRunner().invoke(cli.app, ["traces", *map(str, args)])


def test_a_pull_prints_what_it_did_and_stores_it(locked: LangSmithServer, tmp_path: Path) -> None:
    locked.prices = {"small": ("0.2", "0.6")}
    for number in range(12):
        add_trace(locked, number, days_ago(1), tags=("xrouter",))
    db, pool = tmp_path / "t.db", tmp_path / "pool.yaml"
    pool.write_text(
        "models:\n  - {name: small, model: small, base_url: 'http://127.0.0.1:1/v1',\n"
        "     price: {input: 0.02, output: 0.06}}\n"
    )
    result = xrouter(
        *("pull", "--project", PROJECT, "--since", "3d", "--tag", "xrouter"),
        *("--store", db, "--pool", pool),
    )
    assert result.exit_code == 0, result.output
    for words in ("12 read", "60 new", "0 of 12 model calls agree", "2 more", "API v2"):
        assert words in result.stdout
    with TraceStore(db) as store:
        assert stored(store) == there(locked)
    assert KEY not in result.output and KEY.encode() not in db.read_bytes()


def test_json_holds_every_figure(locked: LangSmithServer, tmp_path: Path) -> None:
    add_trace(locked, 1, days_ago(1))
    result = xrouter("pull", "--project", PROJECT, "--store", tmp_path / "t.db", "--json")
    told = json.loads(result.stdout)
    assert (told["traces"], told["runs"], told["costs"]["neither"]) == (1, 5, 1)
    assert told["project_id"] == locked.session(PROJECT)["id"]


def test_an_error_is_one_line_and_exit_code_2(locked: LangSmithServer, tmp_path: Path) -> None:
    result = xrouter("pull", "--project", "suport-bot", "--store", tmp_path / "t.db", "--quiet")
    assert result.exit_code == 2
    assert result.stderr.startswith("xrouter: there is no project 'suport-bot'")
    assert len(result.stderr.strip().splitlines()) == 1 and KEY not in result.output


def test_a_wrong_time_is_told_with_its_option(tmp_path: Path) -> None:
    result = xrouter("pull", "--project", "p", "--since", "soon", "--store", tmp_path / "t.db")
    assert result.exit_code == 2 and "--since" in result.stderr


def test_a_push_sends_what_langsmith_lacks(locked: LangSmithServer, tmp_path: Path) -> None:
    trace_id = add_trace(locked, 1, days_ago(1))
    db = tmp_path / "t.db"
    assert xrouter("pull", "--project", PROJECT, "--store", db, "--quiet").exit_code == 0
    with TraceStore(db) as store:
        store.record_feedback(trace_id, "liked", 1.0)
    for said in ("1 sent, 0 there", "0 sent, 1 there"):
        result = xrouter("push", "--project", PROJECT, "--store", db)
        assert result.exit_code == 0 and said in result.stdout, result.output
    assert [entry["score"] for entry in locked.feedback.values()] == [1.0]


def test_choices_are_pushed_as_an_experiment(locked: LangSmithServer, tmp_path: Path) -> None:
    key = {"source": ["s"] * 3, "task": ["t"] * 3, "prompt_id": ["1", "2", "3"]}
    row = {"model": ["small"] * 3, "score": [1.0, 0.0, 0.5], "cost_usd": [1e-6] * 3}
    table = tmp_path / "table"
    table.mkdir()
    pl.DataFrame({**key, **row}).write_parquet(table / "outcomes.parquet")
    pl.DataFrame({**key, "prompt": ["a", "b", "c"]}).write_parquet(table / "prompts.parquet")
    chosen = {**key, **row, "cost_weight": [0.1] * 3, "router_cost_usd": [1e-8] * 3}
    choices = tmp_path / "choices.parquet"
    pl.DataFrame(chosen).write_parquet(choices)
    result = xrouter(
        *("push-experiment", choices, "--outcomes", table),
        *("--dataset", "held out", "--experiment", "candidate"),
    )
    assert result.exit_code == 0, result.output
    assert "3 examples (3 new), 3 new runs, 9 new scores" in result.stdout
    asked = {run["inputs"]["prompt"] for run in locked.runs.values()}
    assert asked == {"a", "b", "c"}


def test_the_demo_shows_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--folder", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for words in ("equal in", "0.123456789", "costs recomputed", "18 outcomes", "in no file"):
        assert words in told
    assert (tmp_path / "outcomes" / "outcomes.parquet").exists()


def test_a_client_of_ones_own_may_be_given(locked: LangSmithServer) -> None:
    from langsmith import Client

    client = Client(api_url=locked.url, api_key=KEY, auto_batch_tracing=False)
    with LangSmith(client) as langsmith:
        assert langsmith.project(PROJECT).name == PROJECT
