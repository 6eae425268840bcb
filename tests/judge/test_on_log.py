"""`xrouter judge` on a log: one answer per request, some of them drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.support.logs import CARDS, World, always
from tests.support.tables import write_log
from xrouter_lg.cli import app
from xrouter_lg.fitting.from_log import learned_from, write_from_log
from xrouter_lg.fitting.read_lesson import LessonSettings, read_log

runner = CliRunner()
N = 1500


def log(folder: Path, seed: int) -> Path:
    table = World.of(N, seed).log(always("large", N, 0.3), seed, wrong=0.1)
    return write_log(table, folder / f"log{seed}")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One to learn from, and one of later requests."""
    folder = tmp_path_factory.mktemp("logs")
    return log(folder, 0), log(folder, 1)


def checkpoint(outcomes: Path, folder: Path, *, wrong: bool = False) -> Path:
    how = LessonSettings()
    table = read_log(outcomes, how)
    if wrong:  # what is said of the small card is the opposite of the truth
        small = table.cards.index("small")
        table.score[:, small] = 1.0 - table.score[:, small]
        coder = table.cards.index("coder")
        table.score[:, coder] = np.where(np.isfinite(table.score[:, coder]), 0.0, np.nan)
    write_from_log(folder, learned_from(table, how), how)
    return folder


def judge(folder: Path, outcomes: Path, *more: str) -> tuple[int, dict[str, object]]:
    command = ["judge", "--checkpoint", str(folder), "--cost-weight", "0.5", "--gate", "--json"]
    files = [str(outcomes / "outcomes.parquet"), "--prompts", str(outcomes / "prompts.parquet")]
    done = runner.invoke(app, [*command, "--outcomes", *files, *more])
    assert done.exit_code in (0, 3), done.output
    return done.exit_code, json.loads(done.stdout)


def test_later_requests_prove_a_good_checkpoint(logs: tuple[Path, Path], tmp_path: Path) -> None:
    learned, later = logs
    folder = checkpoint(learned, tmp_path / "good")
    code, found = judge(folder, later, "--report", str(tmp_path / "report.html"))
    assert code == 0
    assert found["promote"] is True
    assert found["learned_from_it"] is False
    verdict = found["pools"][0]["verdict"]  # type: ignore[index]
    assert verdict["over_log"]["doubly_robust"]["low"] > 0
    assert json.loads((tmp_path / "report.json").read_text()) == found
    moved = runner.invoke(
        app,
        ["promote", str(folder), "--checkpoints", str(tmp_path / "c"), "--report",
         str(tmp_path / "report.json")],
    )  # fmt: skip
    assert moved.exit_code == 0, moved.output


def test_a_checkpoint_that_is_wrong_is_refused(logs: tuple[Path, Path], tmp_path: Path) -> None:
    learned, later = logs
    code, found = judge(checkpoint(learned, tmp_path / "bad", wrong=True), later)
    assert code == 3
    assert found["promote"] is False


def test_on_its_own_log_others_stand_for_it(logs: tuple[Path, Path], tmp_path: Path) -> None:
    learned, _ = logs
    folder = checkpoint(learned, tmp_path / "own")
    code, found = judge(folder, learned)
    assert found["learned_from_it"] is True
    assert code == 0


def test_what_a_log_can_not_judge_is_said(logs: tuple[Path, Path], tmp_path: Path) -> None:
    learned, later = logs
    folder = checkpoint(learned, tmp_path / "own")
    names = [word for card in CARDS for word in ("--rename", f"{card}=other-{card}")]
    command = ["judge", "--checkpoint", str(folder), "--outcomes", str(later / "outcomes.parquet")]
    done = runner.invoke(app, [*command, "--prompts", str(later / "prompts.parquet"), *names])
    assert done.exit_code == 2
    assert "is known to the checkpoint" in done.output
