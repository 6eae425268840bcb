"""`xrouter judge` before any model is loaded: what is wrong is said in one line, exit code 2."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.checkpoints.test_aliases import checkpoint
from xrouter_lg.cli import app

RUN = CliRunner()


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    checkpoint(tmp_path, "one")
    return [
        "judge",
        *("--checkpoint", str(tmp_path / "one")),
        *("--outcomes", str(tmp_path / "o.parquet")),
        *("--prompts", str(tmp_path / "p.parquet")),
    ]


def test_a_checkpoint_that_is_not_there(arguments: list[str]) -> None:
    arguments[2] += "x"
    found = RUN.invoke(app, arguments)
    assert found.exit_code == 2 and "no checkpoint in" in found.stderr


def test_an_adapter_without_its_base(arguments: list[str]) -> None:
    found = RUN.invoke(app, arguments)
    assert found.exit_code == 2 and "give base=FOLDER" in found.stderr


def test_a_table_that_is_not_there(arguments: list[str], tmp_path: Path) -> None:
    tmp_path.joinpath("config.json").write_text("{}")
    found = RUN.invoke(app, [*arguments, "--base", str(tmp_path)])
    assert found.exit_code == 2 and "o.parquet: there is no such file" in found.stderr


def test_a_table_is_named_by_its_folder_or_by_both_files(
    arguments: list[str], tmp_path: Path
) -> None:
    tmp_path.joinpath("config.json").write_text("{}")
    named = [*arguments[:3], "--base", str(tmp_path), "--outcomes"]
    found = RUN.invoke(app, [*named, str(tmp_path)])
    assert found.exit_code == 2 and f"{tmp_path}/outcomes.parquet: there is no" in found.stderr
    found = RUN.invoke(app, [*named, str(tmp_path / "o.parquet")])
    assert found.exit_code == 2 and "is no folder; give the folder" in found.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rename", "a"], "is no TABLE=CARD"),
        (["--split", "half"], "auto, recorded or all"),
        (["--train-outcomes", "x.parquet"], "give both or neither"),
        (["--cost-weight", "-1"], "cost-weight"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], options: list[str], said: str) -> None:
    found = RUN.invoke(app, [*arguments, *options])
    assert found.exit_code == 2 and said in found.output
