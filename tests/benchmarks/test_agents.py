"""The recorded runs of a tool agent: tasks with answers that follow from the tools, models that say
again what they said, and the same figures each time."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import ToolException

from benchmarks import agents
from benchmarks.agent_parts import world
from benchmarks.agent_parts.agent import MOST_CALLS
from benchmarks.agent_parts.models import CARDS, AgentModels
from benchmarks.agent_parts.recording import AgentAnswer, AgentRecording, NeverAskedError, key_of
from benchmarks.agent_parts.runs import ARMS, AgentRun, all_runs, run
from benchmarks.agent_parts.tasks import AgentTask, tasks
from tests.support.apps import pool
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall

SMALL, LARGE = CARDS.values()
SOME = 12
"""Tasks that are run again here; the command runs all."""


def body(*said: str) -> dict[str, Any]:
    messages = [
        {"role": role, "content": text}
        for role, text in zip(["user", "assistant"] * len(said), said, strict=False)
    ]
    return {"messages": messages, "tools": []}


def answer(model: str, asked: dict[str, Any], text: str = "42", tokens: int = 100) -> AgentAnswer:
    return AgentAnswer(key_of(model, asked), model, text, [], "stop", tokens, 10, 0)


def solved(task: AgentTask) -> str:
    """The answer as a careful person gets it with the tools."""
    date = next(iter(re.findall(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", task.question)), "")
    text = task.question.replace(date, "")
    numbers = [int(number) for number in re.findall(r"\b[0-9]+\b", text)]
    text = text.replace("shelves", "shelf")
    items = [item for item in world.ITEMS if re.search(rf"\b{item}(e?s)?\b", text)]
    items.sort(key=text.index)
    name = next((name for name in world.STAFF if name in text), "")
    if task.kind in ("item", "plural"):
        look = world.stock if re.search("stock|pieces|do we have", text, re.I) else world.price
        return look(items[0])
    if task.kind in ("person", "manager"):
        told = world.employee(name)
        if task.kind == "manager":
            told = world.employee(told.split(",")[0].removeprefix("manager: "))
        what = "city" if re.search("city|where", text, re.I) else "phone"
        return next(p.partition(": ")[2] for p in told.split(", ") if p.startswith(what))
    if task.kind == "calendar":
        return world.add_days(date, numbers[0]).rpartition(" ")[2]
    if task.kind == "left":
        return world.calculate(f"{world.stock(items[0])} - {numbers[0]}")
    parts = [f"{n} * {world.price(item)}" for n, item in zip(numbers, items, strict=True)]
    return world.calculate(" + ".join(parts))


@pytest.mark.parametrize("task", tasks(6), ids=lambda task: task.id)
def test_the_answer_is_what_the_tools_tell(task: AgentTask) -> None:
    assert task.is_solved_by(solved(task))


def test_tasks_are_the_same_each_time_and_no_question_comes_twice() -> None:
    assert tasks() == tasks()
    assert len({task.question for task in tasks()}) == len(tasks())
    assert tasks(2) == [task for task in tasks() if task.id[-2:] in ("00", "01")]


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("34", "34", True),
        ("34", "It costs 34 euros.", True),
        ("1204", "1,204", True),
        ("34", "34, so two are 68", False),
        ("34", "a lamp", False),
        ("Oslo", "In Oslo.", True),
        ("Oslo", "Oslo or Lyon", False),
        ("Monday", "2026-05-11, a Monday", True),
        ("Monday", "Tuesday", False),
    ],
)
def test_an_answer_is_right_or_not(answer: str, text: str, right: bool) -> None:
    assert AgentTask("x-00", "x", "?", answer).is_solved_by(text) is right


def test_a_tool_that_is_used_wrongly_says_what_it_takes() -> None:
    wrongly: list[Callable[[], str]] = [
        lambda: world.price("2 lamps"),
        lambda: world.employee("Ada"),
        lambda: world.add_days("yesterday", 1),
        lambda: world.add_days("2026-01-01", 10**9),
        lambda: world.calculate("__import__('os')"),
        lambda: world.calculate("1 / 0"),
        lambda: world.calculate("9 ** 9"),
    ]
    for wrong in wrongly:
        with pytest.raises(ToolException, match=r"Give|Write"):
            wrong()
    assert world.calculate("-(2 + 3) * 1.5") == "-7.5"
    assert world.add_days("2026-02-28", 1) == f"2026-03-01, a {dt.date(2026, 3, 1):%A}"


def test_what_was_never_recorded_is_refused(tmp_path: Path) -> None:
    models = AgentModels(AgentRecording(tmp_path / "none"))
    with pytest.raises(NeverAskedError, match=r"was never asked this, ending in 'hi'"):
        models.answer(SMALL, body("hi"))


def test_a_recording_grows_and_is_written_the_same_each_time(tmp_path: Path) -> None:
    grows = tmp_path / "grows.jsonl"
    recording = AgentRecording(tmp_path / "none", grows=grows)
    first, second = answer(SMALL, body("a")), answer(LARGE, body("b"))
    recording.add(second)
    recording.add(first)
    again = AgentRecording(tmp_path / "none", grows=grows)
    assert (again.get(SMALL, body("a")), again.get(LARGE, body("b"))) == (first, second)
    assert again.get(LARGE, body("a")) is None
    for file, kept in ((tmp_path / "one", recording), (tmp_path / "two", again)):
        kept.write(file)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    recording.write(tmp_path / "part", keys={first.key})
    assert len(AgentRecording(tmp_path / "part")) == 1


def test_a_model_s_cache_holds_what_it_read_and_said_in_this_run_alone() -> None:
    models = AgentModels(AgentRecording(Path("/nonexistent")))
    asked = answer(SMALL, body("a"), "b", 100)
    assert models.cached_tokens(SMALL, body("a"), asked) == 0
    longer = answer(SMALL, body("a", "b", "c"), tokens=130)
    assert models.cached_tokens(LARGE, body("a", "b", "c"), longer) == 0
    assert models.cached_tokens(SMALL, body("a", "b", "c"), longer) == 110
    assert models.cached_tokens(SMALL, body("a", "x", "c"), longer) == 100
    models.forget()
    assert models.cached_tokens(SMALL, body("a", "b", "c"), longer) == 0


@pytest.fixture(scope="module")
def runs() -> dict[str, list[AgentRun]]:
    """Every arm on some recorded tasks, without a model."""
    return all_runs(AgentModels(AgentRecording()), tasks()[:SOME])


def test_every_recorded_run_can_be_run_again(runs: dict[str, list[AgentRun]]) -> None:
    assert list(runs) == [arm.name for arm in ARMS]
    for name, found in runs.items():
        assert [one.task for one in found] == [task.id for task in tasks()[:SOME]]
        assert all(one.cost_usd > 0 and one.routes for one in found)
        if "per step" not in name:
            assert not any(one.switches or one.raised for one in found)


def test_a_stalled_run_goes_on_with_the_larger_model(runs: dict[str, list[AgentRun]]) -> None:
    raised = [one for one in runs["small until it stalls, per step"] if one.raised]
    assert raised
    for one in raised:
        # Up once, and never down again.
        assert one.switches == 1
        assert one.routes[0] == "small" and one.routes[-1] == "large"


def test_a_run_that_may_stall_once_goes_on_with_the_larger_model_at_the_second(
    fake: FakeOpenAIServer,
) -> None:
    lost = Reply(tool_calls=[ToolCall("price", {"item": "nothing"})])
    fake.add_model(FakeModel(name="small", reply=lost))
    arm = next(arm for arm in ARMS if arm.stalls == 2)
    models = AgentModels(AgentRecording(Path("/nonexistent")))
    (one,) = run(arm, tasks()[:1], models, pool(fake, "small", "large"))
    assert (one.routes, one.stalls) == (("small", "small", "large"), 2)


def test_a_run_that_ends_at_its_limit_has_failed_whatever_the_limit_says(
    fake: FakeOpenAIServer,
) -> None:
    lost = Reply(tool_calls=[ToolCall("price", {"item": "nothing"})])
    fake.add_model(FakeModel(name="small", reply=lost))
    models = AgentModels(AgentRecording(Path("/nonexistent")))
    told = [AgentTask("x-00", "x", "?", str(MOST_CALLS))]
    (one,) = run(ARMS[0], told, models, pool(fake, "small", "large"))
    assert (len(one.routes), one.solved) == (MOST_CALLS, False)


def test_the_same_run_costs_the_same(runs: dict[str, list[AgentRun]]) -> None:
    models = AgentModels(AgentRecording())
    with models.served() as cards:
        again = run(ARMS[0], tasks()[:6], models, cards)
    assert again == runs["small alone"][:6]


def test_the_command_prints_figures_with_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    assert agents.main(["--tasks", str(SOME), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["figures"]
    large = told["large alone"]
    assert large["share_of_large"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert large["success"]["low"] <= large["success"]["value"] <= large["success"]["high"]
