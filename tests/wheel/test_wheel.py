"""The installed wheel, far from any checkout: from traces to a router that serves.

The tests of one session share a folder and go on where the one before ended.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installed import FOREIGN, ROOT, Built, User, pip

pytestmark = [pytest.mark.wheel, pytest.mark.timeout(1500)]

LEARNED, HELD_OUT = 200, 120
"""Requests that the router learns from, and later ones that judge it."""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    tools = folder / "tools"
    pip("install", "--quiet", "--target", tools, "hatchling>=1.27")
    code = "from hatchling.build import build_sdist as s, build_wheel as w; s('{0}'); w('{0}')"
    subprocess.run(
        [sys.executable, "-c", code.format(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(tools)},
        check=True,
    )
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


@pytest.fixture(scope="session")
def user(built: Built, tmp_path_factory: pytest.TempPathFactory) -> User:
    folder = tmp_path_factory.mktemp("user")
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    bin = folder / "venv" / "bin"
    pip(
        *("install", "--quiet", "-c", ROOT / "constraints.txt", f"{built.wheel}[cli,data,serve]"),
        python=bin / "python",
    )
    home = folder / "project"
    shutil.copytree(ROOT / "tests" / "wheel" / "app", home, ignore=lambda *_: {"__pycache__"})
    for name in FOREIGN:
        (home / name).mkdir()
        (home / name / "__init__.py").write_text("raise RuntimeError('the user\\'s own package')\n")
    (home / "verifiers.yaml").write_text("- exact\n")
    return User(bin, home)


@pytest.fixture(scope="session")
def provider(user: User) -> Iterator[str]:
    """The fake provider's URL, run by the installed package; the pool file names it."""
    server = subprocess.Popen(
        [user.bin / "python", "serve.py"],
        cwd=user.home,
        env=user.env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None and server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        cards = {"small": ("0.1", "0.4"), "large": ("5", "20")}
        models = [
            {
                "name": name,
                "model": name,
                "base_url": url,
                "price": {"input": given, "output": taken},
            }
            for name, (given, taken) in cards.items()
        ]
        # JSON is YAML.
        (user.home / "pool.yaml").write_text(json.dumps({"models": models}))
        yield url
    finally:
        server.stdin.close()
        server.wait(timeout=30)


def shipped() -> set[str]:
    """Every file of the package in the checkout, data files among them."""
    files = (path for path in (ROOT / "xrouter_lg").rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_the_wheel_holds_the_whole_package_and_nothing_else(built: Built) -> None:
    names = set(zipfile.ZipFile(built.wheel).namelist())
    assert {name for name in names if ".dist-info/" not in name} == shipped()
    assert "xrouter_lg/judge/report/page.html.jinja" in names


def test_the_source_distribution_holds_the_package_and_its_papers(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    papers = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "PKG-INFO"}
    papers.add(".gitignore")
    assert names == shipped() | papers


def test_every_module_imports_without_what_training_brings(user: User) -> None:
    modules = [
        name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in sorted(shipped())
        if name.endswith(".py") and not name.endswith("__main__.py")
    ]
    code = (
        "import importlib, json, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "heavy = [name for name in ('torch', 'transformers') if name in sys.modules]\n"
        "print(json.dumps([sys.modules['xrouter_lg'].__file__, heavy]))"
    )
    file, heavy = user.python("-c", code)
    assert Path(file).is_relative_to(user.bin.parent) and heavy == []


def test_the_folder_has_packages_that_a_wrong_import_would_find(user: User) -> None:
    for name in FOREIGN:
        done = user.run("python", "-c", f"import {name}")
        assert "the user's own package" in done.stderr


def test_an_app_records_what_the_command_lists(user: User, provider: str) -> None:
    for first, count, store in ((0, LEARNED, "traces.db"), (LEARNED, HELD_OUT, "later.db")):
        routes = user.python("ask.py", "random", first, count, store)
        listed = json.loads(
            user.xrouter("traces", "list", "--store", store, "--limit", "999", "--json")
        )
        assert len(listed) == len(routes) == count
        assert {row["record"]["route"] for row in listed} == {"small", "large"}


def test_traces_become_outcomes_that_a_verifier_scored(user: User) -> None:
    options = ("--verifiers", "verifiers.yaml", "--references", "gold.jsonl", "--json")
    for store, table, count in (
        ("traces.db", "outcomes", LEARNED),
        ("later.db", "held_out", HELD_OUT),
    ):
        told = json.loads(
            user.xrouter("outcomes", "build", "--store", store, "--to", table, *options)
        )
        assert (told["outcomes"], told["scored"], told["unpriced"]) == (count, count, 0)


def test_the_other_card_is_asked_within_a_budget(user: User, provider: str) -> None:
    all_of_it = ("--strategy", "random")  # the judge wants both cards' answers
    options = ("--pool", "pool.yaml", "--verifiers", "verifiers.yaml", "--json", *all_of_it)
    for table, count in (("outcomes", LEARNED), ("held_out", HELD_OUT)):
        told = json.loads(user.xrouter("backfill", table, "--budget-usd", "1", *options))
        assert told["stopped"] == "done" and sum(told["answered"].values()) == count
        assert 0 < float(told["run_usd"]) < 1
        summary = json.loads(user.xrouter("outcomes", "summary", table, "--json"))
        assert summary["outcomes"] == 2 * count and summary["problems"] == []


def test_a_router_is_trained_without_a_language_model(user: User) -> None:
    user.xrouter("train", "outcomes", "--output", "runs/mine")
    assert (user.home / "runs" / "mine" / "manifest.json").is_file()


def test_the_judge_finds_that_it_may_serve(user: User) -> None:
    told = json.loads(
        user.xrouter(
            "judge",
            *("--checkpoint", "runs/mine", "--split", "all", "--gate", "--json"),
            *("--outcomes", "held_out/outcomes.parquet", "--prompts", "held_out/prompts.parquet"),
            *("--train-outcomes", "outcomes/outcomes.parquet"),
            *("--train-prompts", "outcomes/prompts.parquet"),
            *("--report", "report.html"),
        )
    )
    assert told["promote"] is True and told["prompts"] == HELD_OUT
    assert "<html" in (user.home / "report.html").read_text()


def test_what_passed_is_promoted(user: User) -> None:
    arguments = ("runs/mine", "--report", "report.json", "--checkpoints", "checkpoints")
    moved = json.loads(user.xrouter("promote", *arguments, "--json"))
    assert (moved["alias"], moved["forced"]) == ("production", None)
    log = json.loads(user.xrouter("rollback", "--log", "--json"))
    assert {entry["to_version"] for entry in log} == {moved["to_version"]}


def test_the_app_answers_by_what_was_promoted(user: User, provider: str) -> None:
    routes = user.python("ask.py", "checkpoints/production", LEARNED + HELD_OUT, 20)
    assert {tuple(route) for route in routes} == {("sums", "small"), ("geography", "large")}


def test_spend_is_compared_and_shown(user: User) -> None:
    saved = json.loads(user.xrouter("savings", "--store", "traces.db", "--since", "1d", "--json"))
    assert saved["requests"] == LEARNED and {one["card"] for one in saved["cards"]} == {
        "small",
        "large",
    }
    told = json.loads(user.xrouter("dashboard", "--store", "traces.db", "--once"))
    assert told["savings"]["spent_usd"] == pytest.approx(saved["spent_usd"])
    length = user.python("-c", "from xrouter_lg.dashboard.page import page; print(len(page()[0]))")
    assert length > 10_000


def test_a_pool_is_filled_from_what_the_app_has_called(user: User) -> None:
    told = json.loads(user.xrouter("init", "--traces", "traces.db", "--dry-run", "--json"))
    assert sum(one["calls"] for one in told["used"]) == LEARNED
