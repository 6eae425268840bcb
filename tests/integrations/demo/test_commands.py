"""The commands that the demo shows are commands that work, and their failures are told."""

from __future__ import annotations

import io
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from integrations.demo import commands
from integrations.demo.__main__ import main


def test_a_failed_command_is_told_as_it_was_typed() -> None:
    said = Console(file=io.StringIO(), width=200)
    with pytest.raises(commands.CommandFailedError, match="status 2") as failure:
        commands.xrouter("outcomes", "summary", "no such folder", console=said)
    assert "xrouter outcomes summary 'no such folder'" in str(failure.value)
    typed = said.file.getvalue().removeprefix("$ ")  # type: ignore[attr-defined]
    assert shlex.split(typed) == ["xrouter", "outcomes", "summary", "no such folder"]


def test_a_status_that_is_an_answer_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # commands run where the user is, from whatever checkout
    said = Console(file=io.StringIO(), width=200)
    assert commands.xrouter("outcomes", "summary", "nowhere", console=said, also=(2,)) == 2
    assert commands.xrouter("--help", console=said) == 0


def test_without_what_it_learns_with_the_demo_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("integrations.demo.__main__.find_spec", lambda name: None)
    assert main([]) == 1
    said = capsys.readouterr().out
    assert "make demo" in said and "sklearn" in said and "torch" not in said
