"""What is added to a request, and what it moves."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("sklearn")

from benchmarks.experiments.injection import Decider, measure, requests_of, total
from benchmarks.injection_parts.attempts import attempts
from xrouter_lg.fitting.head_checkpoint import write_head
from xrouter_lg.fitting.read_lesson import LessonSettings, lesson_of, read_either
from xrouter_lg.policies.head import HeadPolicy

DEMO = Path(__file__).parents[2] / "integrations" / "demo" / "recorded"
HOW = LessonSettings(train_share=0.5)


def test_what_a_tool_or_a_system_prompt_says_moves_no_request(tmp_path: Path) -> None:
    table, _ = read_either(DEMO, HOW)
    write_head(tmp_path / "checkpoint", lesson_of(table, HOW))
    tried = [one for one in attempts() if not one.place.startswith("user")]
    assert len(attempts()) >= 200 and len(tried) >= 200
    decider = Decider(HeadPolicy(tmp_path / "checkpoint"))
    found = total(measure(decider, requests_of(DEMO, (), 20), tried[::3], each=1))
    assert found.dearer == 0
    assert found.possible > 50
