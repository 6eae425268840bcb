"""A recording grows answer by answer and goes on after whatever stopped it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from graphs.support_app import SYSTEM
from integrations.demo.recorded.record import ask_all, missing
from integrations.demo.recorded.recording import RecordedAnswer, Recording
from integrations.demo.recorded.task import Task
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply

TASKS = [Task("sums", f"What is {n} + 1?", str(n + 1), max_tokens=16) for n in range(12)]


def answer(task: Task, *, model: str = "m", limit: int = 16) -> RecordedAnswer:
    return RecordedAnswer(task.prompt_id, model, limit, "2", "stop", 10, 2, 0.1)


def reply(body: dict[str, Any]) -> Reply:
    return Reply(content=body["messages"][-1]["content"], prompt_tokens=20, completion_tokens=3)


def test_an_answer_is_there_after_a_restart(tmp_path: Path) -> None:
    Recording(tmp_path / "answers.jsonl").add(answer(TASKS[0]))
    again = Recording(tmp_path / "answers.jsonl")
    assert again.get(TASKS[0], "m") == answer(TASKS[0]) and len(again) == 1


def test_a_line_cut_by_a_kill_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    first = Recording(path)
    first.add(answer(TASKS[0]))
    first.add(answer(TASKS[1]))
    path.write_bytes(path.read_bytes()[:-9])
    again = Recording(path)
    assert again.get(TASKS[0], "m") is not None and again.get(TASKS[1], "m") is None
    again.add(answer(TASKS[1]))
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 2


def test_an_answer_under_another_limit_does_not_count(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "answers.jsonl")
    recording.add(answer(TASKS[0], limit=8))
    assert missing(TASKS[:1], recording, "m") == TASKS[:1]


def test_every_model_is_asked_what_it_has_not_answered(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "answers.jsonl")
    recording.add(answer(TASKS[3], model="small"))
    models = [FakeModel(name="small", reply=reply), FakeModel(name="large", reply=reply)]
    with FakeOpenAIServer(models) as server:
        ask_all(TASKS, recording, {"small": server.base_url, "large": server.base_url})
        calls, bodies = server.calls, [request.body for request in server.requests]
    assert calls == {"small": 11, "large": 12}
    assert bodies[0]["messages"][0] == {"role": "system", "content": SYSTEM}
    assert {body["temperature"] for body in bodies} == {0}
    found = Recording(recording.path).get(TASKS[5], "large")
    assert found is not None and (found.input_tokens, found.output_tokens) == (20, 3)
    assert found.text == TASKS[5].prompt and found.finish_reason == "stop"


def test_a_failing_server_loses_no_answer_that_was_there(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "answers.jsonl")

    def sometimes(body: dict[str, Any]) -> Reply:
        if body["messages"][-1]["content"] == TASKS[-1].prompt:
            raise ValueError("broken")
        return reply(body)

    broken = FakeOpenAIServer([FakeModel(name="m", reply=sometimes)])
    with broken as server, pytest.raises(httpx.HTTPStatusError):
        ask_all(TASKS, recording, {"m": server.base_url})
    kept = len(Recording(recording.path))
    assert 0 < kept < len(TASKS)
    with FakeOpenAIServer([FakeModel(name="m", reply=reply)]) as server:
        ask_all(TASKS, recording, {"m": server.base_url})
        assert server.calls == {"m": len(TASKS) - kept}
    assert missing(TASKS, recording, "m") == []
