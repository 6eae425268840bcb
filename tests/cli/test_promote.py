from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.checkpoints.test_aliases import NO, YES, checkpoint
from xrouter_lg.cli import app

RUN = CliRunner()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "checkpoints"
    for name, verdict in (("one", YES), ("two", YES), ("bad", NO)):
        checkpoint(root, name, verdict)
    return root


def test_promote_and_rollback_need_no_further_option(folder: Path) -> None:
    for name in ("one", "two"):
        found = RUN.invoke(app, ["promote", f"checkpoints/{name}"])
        assert found.exit_code == 0, found.output
    assert "(two)" in found.output
    found = RUN.invoke(app, ["rollback"])
    assert found.exit_code == 0 and "(one)" in found.output
    assert json.loads((folder / "production.json").read_text())["checkpoint"] == "one"


def test_both_name_the_alias_that_they_move_alike(folder: Path) -> None:
    for name in ("bad", "one"):  # no verdict is asked for: it does not serve
        found = RUN.invoke(app, ["promote", f"checkpoints/{name}", "--alias", "candidate"])
        assert found.exit_code == 0, found.output
    found = RUN.invoke(app, ["rollback", "--alias", "candidate"])
    assert found.exit_code == 0, found.output
    assert json.loads((folder / "candidate.json").read_text())["checkpoint"] == "bad"
    assert not (folder / "production.json").exists()


def test_ci_is_told_that_nothing_was_promoted(folder: Path) -> None:
    found = RUN.invoke(app, ["promote", "checkpoints/bad"])
    assert found.exit_code == 3
    assert "not promoted" in found.stderr and "Loses to kNN" in found.stderr


def test_ci_is_told_apart_that_a_file_is_missing(folder: Path) -> None:
    found = RUN.invoke(app, ["promote", "checkpoints/nothing"])
    assert found.exit_code == 2 and "no checkpoint" in found.stderr


def test_force_wants_a_reason_and_logs_it(folder: Path) -> None:
    assert RUN.invoke(app, ["promote", "checkpoints/bad", "--force", " "]).exit_code == 2
    found = RUN.invoke(app, ["promote", "checkpoints/bad", "--force", "a fire", "--json"])
    assert found.exit_code == 0 and json.loads(found.stdout)["forced"] == "a fire"
    log = RUN.invoke(app, ["rollback", "--log"])
    assert "forced: a fire" in log.stdout


def test_nothing_to_roll_back_to_is_an_error(folder: Path) -> None:
    found = RUN.invoke(app, ["rollback"])
    assert found.exit_code == 2 and "nothing to roll back to" in found.stderr


def test_the_commands_are_in_the_help() -> None:
    shown = RUN.invoke(app, ["--help"]).output
    assert all(name in shown for name in ("judge", "promote", "rollback"))
