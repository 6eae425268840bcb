"""What a release has to pass: `make dist` leaves the archives in dist/.

Each extra is installed alone, the floors together, and every Python that is there. Environments are
clean ones; uv makes them.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

pytestmark = [pytest.mark.dist, pytest.mark.timeout(3600)]

ROOT = Path(__file__).parents[2]
DIST = ROOT / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

POOL = "ModelPool([ModelCard(name='a', model='a', base_url='http://127.0.0.1:9/v1')])"
FIRST: dict[str, str] = {
    "": f"from xrouter_lg import *; print(XRouterNode({POOL}, policy='cheapest'))",
    "cli": (
        "import sys; sys.argv = ['xrouter', 'doctor', '--json']; "
        "from xrouter_lg.cli import main; main()"
    ),
    "llama-cpp": "import xllamacpp, huggingface_hub",
    "checkpoint": "import xrouter_lg.policies.head, xrouter_lg.checkpoints.folder",
    "remote": "import xrouter_lg.policies.slots.remote",
    "torch": "import xrouter_lg.policies.slots.torch_engine, torch; print(torch.ones(2).sum())",
    "serve": (
        "from xrouter_lg import *; from xrouter_lg.serve.app import create_app; "
        f"print(create_app(ChatXRouter({POOL}, policy='cheapest')).title)"
    ),
    "postgres": "import psycopg; print(psycopg.pq.version())",
    "data": (
        "from xrouter_lg.verifiers import build; "
        "print(build('exact').verify('Paris', 'Paris', {}).score)"
    ),
    "train": "import trl, xrouter_lg.fitting.family_head",
    "providers": "import langchain_anthropic, langchain_google_genai, langchain_mistralai",
    "docs": "import mkdocs, nbclient",
}
"""What shows first that an extra works, alone."""
LEFT_OUT = {
    "dev": "everything at once, as CI has it",
    "vllm": "its own torch, of several gigabytes",
}
TORCH = ("[torch]", "[train]")
[PINNED_TORCH] = re.findall(r"^torch==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
OLDER = ("3.12", "3.13", "3.14")
CORE = ("tests/graph", "tests/routing", "tests/pool", "tests/calls", "tests/tracing")


def uv(*arguments: object, may_fail: bool = False) -> bool:
    command = [sys.executable, "-m", "uv", *map(str, arguments)]
    # uv reads where pip looks for wheels under a name of its own.
    wheels = os.environ.get("UV_FIND_LINKS", os.environ.get("PIP_FIND_LINKS", "")).split()
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_FIND_LINKS": ",".join(wheels)}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, check=False)
    assert may_fail or done.returncode == 0, done.stderr
    return done.returncode == 0


def built(folder: Path) -> tuple[Path, Path]:
    """The wheel and the sdist, made into a folder."""
    when = ["git", "log", "-1", "--format=%ct"]
    date = subprocess.run(when, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    env = {**os.environ, "SOURCE_DATE_EPOCH": date}
    subprocess.run(command, env=env, check=True, capture_output=True)
    [wheel], [sdist] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


@cache
def wheel() -> Path:
    shutil.rmtree(DIST, ignore_errors=True)
    return built(DIST)[0]


def environment(folder: Path, python: str, extras: str, *more: str, floors: bool = False) -> Path:
    """The interpreter of a new environment with the wheel."""
    uv("venv", "--python", python, folder)
    interpreter = folder / "bin" / "python"
    asked = f"xrouter_lg{extras} @ {wheel().as_uri()}"
    bounds = ROOT / "constraints.txt"
    if floors:
        bounds = folder / "floors.txt"
        which = [f"--extra={one}" for one in extras.strip("[]").split(",")]
        lowest = ["--resolution", "lowest-direct", "--python", interpreter]
        uv("pip", "compile", *lowest, *which, ROOT / "pyproject.toml", "--output-file", bounds)
    install = ["pip", "install", "--python", interpreter, "-c", bounds, asked, *more]
    # As in the Makefile: torch for CPUs from where packages come from, else from where uv knows.
    if not (extras in TORCH and uv(*install, f"torch=={PINNED_TORCH}+cpu", may_fail=True)):
        uv(*install, "--torch-backend=cpu")
    return interpreter


def interpreter_of(version: str) -> str | None:
    """One that runs, by its name or where pyenv keeps it."""
    places = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    for place in [*map(str, places), shutil.which(f"python{version}")]:
        if place is not None:
            said = subprocess.run([place, "-V"], capture_output=True, text=True, check=False)
            if said.stdout.startswith(f"Python {version}."):
                return place
    return None


def run_core(interpreter: Path) -> None:
    """The tests of what an app uses, on the versions that were installed."""
    tests = [str(path) for pattern in CORE for path in sorted(ROOT.glob(pattern))]
    command = [str(interpreter), "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


def test_the_same_commit_gives_the_same_bytes(tmp_path: Path) -> None:
    wheel()
    again = built(tmp_path)
    for path in again:
        first = (DIST / path.name).read_bytes()
        assert hashlib.sha256(first).digest() == hashlib.sha256(path.read_bytes()).digest()


def test_twine_finds_nothing_to_say() -> None:
    wheel()
    archives = [str(path) for path in sorted(DIST.iterdir())]
    command = [sys.executable, "-m", "twine", "check", "--strict", *archives]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_extra_has_its_first_example() -> None:
    assert {*FIRST, *LEFT_OUT} == {"", *PROJECT["optional-dependencies"]}


@pytest.mark.parametrize("extra", FIRST)
def test_an_extra_alone_is_enough_for_its_first_example(extra: str, tmp_path: Path) -> None:
    extras = f"[{extra}]" if extra else ""
    interpreter = environment(tmp_path / "env", sys.executable, extras)
    done = subprocess.run(
        [str(interpreter), "-c", FIRST[extra]],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


TOOLS = [
    one
    for one in PROJECT["optional-dependencies"]["dev"]
    if not re.match(r"xrouter_lg|ruff|mypy|import-linter|types-|playwright", one)
]
"""What tests import, beside what they test."""
WITH = "[cli,data,postgres,providers,serve]"


def test_the_oldest_versions_that_are_admitted_pass(tmp_path: Path) -> None:
    run_core(environment(tmp_path / "env", sys.executable, WITH, *TOOLS, floors=True))


@pytest.mark.parametrize("version", OLDER)
def test_another_python_passes(version: str, tmp_path: Path) -> None:
    if (python := interpreter_of(version)) is None:
        pytest.skip(f"no Python {version} here")
    run_core(environment(tmp_path / "env", python, WITH, *TOOLS))
