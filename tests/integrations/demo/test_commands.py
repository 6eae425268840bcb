"""The commands that the demo shows are commands that work, and their failures are told."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from integrations.demo import commands, workers
from integrations.demo.__main__ import main
from integrations.demo.loop import Loop, Settings
from integrations.demo.questions import DATA, load
from integrations.demo.workers import CARDS
from xrouter_lg.outcomes import OutcomeTable


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def test_a_failed_command_is_told_as_it_was_typed() -> None:
    said = console()
    with pytest.raises(commands.CommandFailedError, match="status 2") as failure:
        commands.xrouter("outcomes", "summary", "no such folder", console=said)
    assert "xrouter outcomes summary 'no such folder'" in str(failure.value)
    typed = said.file.getvalue().removeprefix("$ ")  # type: ignore[attr-defined]
    assert shlex.split(typed) == ["xrouter", "outcomes", "summary", "no such folder"]


def test_without_torch_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("integrations.demo.__main__.find_spec", lambda name: None)
    assert main([]) == 1
    said = capsys.readouterr().out
    assert "make demo" in said and "torch" in said


def test_traces_and_backfill_give_the_recorded_outcomes(tmp_path: Path) -> None:
    history = load(per_family=1)
    with workers.replayed(history, tmp_path / "pool.yaml") as pool:
        loop = Loop(Settings(folder=tmp_path, base="unused"), history, pool, console())
        before = loop.day_one()
        loop.outcomes()
    assert [one.question for one in before] == history.held_out
    found = OutcomeTable.load(tmp_path / "outcomes")
    columns = ("prompt", "model", "score", "cost_usd", "response")
    rows = found.outcomes.join(found.prompts.select("prompt_id", "prompt"), on="prompt_id")
    built = {row[:2]: row[2:] for row in rows.select(columns).collect().iter_rows()}
    whole = OutcomeTable.load(DATA)
    models = {model: card for card, model in CARDS.items()}
    recorded = (
        whole.outcomes.join(whole.prompts.select("prompt_id", "prompt"), on="prompt_id")
        .with_columns(pl.col("model").replace(models))
        .select(columns)
        .collect()
    )
    wanted = {question.prompt for question in history.seen}
    expected = {row[:2]: row[2:] for row in recorded.iter_rows() if row[0] in wanted}
    assert built.keys() == expected.keys()
    for key, (score, usd, response) in expected.items():
        assert built[key][0] == score and built[key][2] == response
        assert built[key][1] == pytest.approx(usd, rel=1e-9)
