"""``xrouter doctor``: it says what is there, never a key, and ends with a command that exists."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from langchain_core.messages import HumanMessage
from typer.testing import CliRunner

from tests.support import apps
from tests.support.logs import World
from xrouter_lg import ModelPool, Recorder, XRouterNode, __version__
from xrouter_lg.checkpoints.aliases import promote
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.cli import app
from xrouter_lg.cli.newcomer.providers import PROVIDERS
from xrouter_lg.fitting.head_checkpoint import write_head
from xrouter_lg.fitting.read_lesson import LessonSettings, lesson_of

SECRET = "sk-never-shown-0123456789"
SETTINGS = ("LANGSMITH_API_KEY", "LANGSMITH_TRACING", "LANGSMITH_PROJECT", "LANGSMITH_ENDPOINT")


@pytest.fixture(autouse=True)
def bare_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XROUTER_CACHE", str(tmp_path / "cache"))
    for name in (*(provider.variable for provider in PROVIDERS), *SETTINGS, "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def doctor(*args: str, **env: str) -> dict[str, Any]:
    found = CliRunner().invoke(app, ["doctor", *args, "--json"], env=env)
    assert found.exit_code == 0, found.output
    told: dict[str, Any] = json.loads(found.stdout)
    assert_can_be_typed(told["next"]["command"])
    return told


def assert_can_be_typed(line: str) -> None:
    """The command exists and takes these options; nothing is run."""
    program, *words = shlex.split(line)
    if program == "pip":
        return
    assert program == "xrouter"
    command: Any = typer.main.get_command(app)
    while hasattr(command, "resolve_command"):
        _, command, words = command.resolve_command(None, words)
    with command.make_context("x", words) as context:
        assert context.params


def facts(told: dict[str, Any], area: str) -> dict[str, tuple[str, str]]:
    found = [fact for fact in told["facts"] if fact["area"] == area]
    return {fact["name"]: (fact["state"], fact["said"]) for fact in found}


def record(*, thumb: bool) -> None:
    async def ask() -> None:
        with Recorder("xrouter_traces.db") as recorder:
            pool = ModelPool([apps.scripted("small"), apps.scripted("large")])
            node = XRouterNode(pool, policy="cheapest", traces=recorder)
            state = await apps.app(node).ainvoke({"messages": [HumanMessage("hello")]})
            recorder.flush(30)
            if thumb:
                recorder.store.record_feedback(apps.record(state)["trace_id"], "useful", 1.0)

    asyncio.run(ask())


def a_pool() -> None:
    assert CliRunner().invoke(app, ["init"]).exit_code == 0


def a_checkpoint() -> Manifest:
    lesson = lesson_of(World.of(300, seed=2).grid(), LessonSettings())
    return write_head(Path("checkpoints/mine"), lesson)


def test_an_empty_folder_is_told_to_begin() -> None:
    told = doctor()
    assert facts(told, "version")["xrouter_lg"] == ("ok", __version__)
    assert told["next"]["command"] == "xrouter init"
    assert not any(fact["state"] == "wrong" for fact in told["facts"])


def test_each_step_is_followed_by_the_next_one() -> None:
    a_pool()
    assert doctor()["next"]["command"] == "xrouter pool check pool.yaml --live"
    assert "traces pull" in doctor(LANGSMITH_API_KEY=SECRET)["next"]["command"]
    record(thumb=False)
    assert "outcomes build" in doctor()["next"]["command"]
    record(thumb=True)
    told = doctor()
    assert told["next"]["command"] == "xrouter learn --feedback useful --pool pool.yaml"
    assert "2 routes" in facts(told, "store")["xrouter_traces.db"][1]
    manifest = a_checkpoint()
    told = doctor()
    assert facts(told, "checkpoint")["checkpoints/production"][0] == "absent"
    assert manifest.version in facts(told, "checkpoint")["checkpoints/mine"][1]
    promote("checkpoints/mine", root="checkpoints", force="a test")
    told = doctor()
    assert facts(told, "checkpoint")["checkpoints/production"][0] == "ok"
    assert told["next"]["command"].startswith("xrouter drift")


def test_keys_are_told_by_name_and_never_shown() -> None:
    env = {provider.variable: SECRET for provider in PROVIDERS}
    env |= {"LANGSMITH_API_KEY": SECRET, "HF_TOKEN": " ", "MY_KEY": SECRET}
    env["LANGSMITH_ENDPOINT"] = f"https://me:{SECRET}@smith.example/api"
    Path("pool.yaml").write_text(
        "models: [{name: a, model: a, base_url: 'http://127.0.0.1:1/v1', api_key_env: MY_KEY}]"
    )
    store = f"postgresql://me:{SECRET}@db.example/traces"
    told = doctor("--store", store, **env)
    keys = facts(told, "key")
    assert keys["OPENAI_API_KEY"] == keys["MY_KEY"] == ("ok", "set")
    assert keys["HF_TOKEN"] == ("absent", "set, and empty")
    assert facts(told, "langsmith")["LANGSMITH_ENDPOINT"] == ("ok", "smith.example")
    shown = CliRunner().invoke(app, ["doctor", "--store", store], env=env).output
    assert SECRET not in json.dumps(told) + shown


@pytest.mark.parametrize(
    ("file", "holds", "area"),
    [
        ("pool.yaml", "models: [{name: a, model: nothing}]", "pool"),
        ("xrouter_traces.db", "no database", "store"),
        ("checkpoints/production.json", "{", "checkpoint"),
        ("checkpoints/mine/manifest.json", "{}", "checkpoint"),
    ],
)
def test_what_is_broken_is_said_and_is_no_failure_of_the_doctor(
    file: str, holds: str, area: str
) -> None:
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(holds)
    told = doctor()
    assert "wrong" in {state for state, _ in facts(told, area).values()}
    for other in ("version", "key", "langsmith", "weights"):
        assert facts(told, other)


def test_a_card_without_its_key_is_told() -> None:
    assert CliRunner().invoke(app, ["init"], env={"OPENAI_API_KEY": SECRET}).exit_code == 0
    told = doctor()
    assert told["next"]["command"] == "xrouter pool check pool.yaml"
    assert any("OPENAI_API_KEY" in said for _, said in facts(told, "pool").values())


def test_the_page_ends_with_the_next_command() -> None:
    shown = CliRunner().invoke(app, ["doctor"]).stdout
    assert "next: xrouter init" in shown.splitlines()[-2]


def test_it_runs_with_nothing_but_the_command_line_installed() -> None:
    code = (
        "import sys\nfor name in ('polars', 'numpy', 'scipy', 'torch'): sys.modules[name] = None\n"
        "from typer.testing import CliRunner\nfrom xrouter_lg import cli\n"
        "out = CliRunner().invoke(cli.app, ['doctor', '--json'])\n"
        "assert out.exit_code == 0 and 'xrouter init' in out.output, out.output\n"
    )
    root = str(Path(__file__).parents[3])
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": root})
