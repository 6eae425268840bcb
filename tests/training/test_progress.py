"""Progress where there is no terminal: lines, not too many, that say what a run is doing."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from training.stage.progress import shown


def lines(every_s: float, calls: list[tuple[str, int, int, str]]) -> list[str]:
    stream = io.StringIO()
    with shown(Console(file=stream, width=40), every_s=every_s) as progress:
        for call in calls:
            progress(*call)
    return stream.getvalue().splitlines()


def test_a_stage_speaks_when_it_begins_and_when_it_is_done() -> None:
    found = lines(60, [("grpo", step, 5, f"reward {step}") for step in range(1, 6)])

    assert found == ["grpo: 1/5; reward 1", "grpo: 5/5; reward 5"]


def test_with_time_between_them_every_step_speaks_and_tells_what_is_left() -> None:
    found = lines(0, [("warm start", step, 4, "") for step in range(1, 5)])

    assert found[0] == "warm start: 1/4"
    assert [line.partition(",")[2].strip() for line in found[1:3]] == ["0 s left", "0 s left"]
    assert found[3] == "warm start: 4/4"


def test_long_lines_are_not_broken_and_names_are_no_markup() -> None:
    note = "[red]card[/red] " + "x" * 60

    assert lines(0, [("grpo", 1, 1, note)]) == [f"grpo: 1/1; {note}"]


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with shown(console, every_s=0) as progress:
        progress("features", 3, 3, "done")

    assert "features" in stream.getvalue()
    assert "3/3" in stream.getvalue()
