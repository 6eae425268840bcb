"""What the documents show is run, and what they say it prints is what it prints."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from typer.testing import CliRunner

from xrouter_lg import XRouterNode, __all__
from xrouter_lg.cli import app, main
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TOLD = [*PAGES, *sorted(ROOT.glob("[!R]*.md")), *sorted((ROOT / "integrations").rglob("README.md"))]
ROOTS = "xrouter_lg|training|integrations|benchmarks|graphs|tests|docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


RUN = ("python", "console")


def fences(page: Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text()) if kind == language]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A folder with the README's pool file, its servers, and its keys."""
    monkeypatch.chdir(tmp_path)
    for key in ("LOCAL_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.setenv(key, "test")
    (pool,) = fences(ROOT / "README.md", "yaml")
    models = [
        FakeModel(name="small", reply="Paris.", prompt_tokens=24, completion_tokens=2),
        FakeModel(name="large", reply="It is Paris.", prompt_tokens=24, completion_tokens=4),
        FakeModel(name="gpt-5-nano", reply="Paris.", prompt_tokens=24, completion_tokens=2),
    ]
    with FakeOpenAIServer(models) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        pool = re.sub(r"http://127\.0\.0\.1:\d+/v1", server.base_url, pool)
        Path("pool.yaml").write_text(pool)
        yield


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(fences(page, kind) for kind in RUN)], ids=name_of
)
def test_every_block_runs_and_prints_what_the_page_says(page: Path, servers: Any) -> None:
    scope: dict[str, Any] = {"__name__": "__docs__"}
    for kind, block in FENCE.findall(page.read_text()):
        if kind == "python":
            expected = [line[3:] for line in block.splitlines() if line.startswith("#> ")]
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile(block, f"{page.name}", "exec"), scope)
            assert printed.getvalue().splitlines() == expected, block
        elif kind == "console":
            for line in block.splitlines():
                commands(line)


def commands(line: str) -> None:
    """Run ``$ xrouter ...`` in this process; it ends well, or with the code behind ``# exit``."""
    command, _, code = line.removeprefix("$ ").partition("  # exit ")
    name, *arguments = shlex.split(command)
    assert line.startswith("$ ") and name == "xrouter", f"not a command of ours: {line}"
    with mock.patch.object(sys, "argv", [name, *arguments]), pytest.raises(SystemExit) as ended:
        main()
    assert (ended.value.code or 0) == int(code or 0), line


def shown(page: Path) -> list[list[str]]:
    """The arguments of each of our commands among a page's shell lines."""
    lines = "\n".join(fences(page, "sh")).replace("\\\n", " ").splitlines()
    split = [shlex.split(part, comments=True) for line in lines for part in line.split(";")]
    behind = [words[::-1].index("xrouter") if "xrouter" in words else 0 for words in split]
    ours = [words[len(words) - n :] for words, n in zip(split, behind, strict=True) if n]
    return [list(takewhile(lambda word: word not in ("|", ">", "&&"), words)) for words in ours]


@pytest.mark.parametrize("page", [page for page in TOLD if shown(page)], ids=name_of)
def test_every_command_that_is_shown_has_the_options_that_it_is_shown_with(page: Path) -> None:
    for arguments in shown(page):
        told = CliRunner().invoke(app, [*arguments, "--help"])  # read, and not carried out
        assert told.exit_code == 0, told.output


def test_the_readmes_first_block_runs_alone_with_no_key_and_nothing_beside_it(
    tmp_path: Path,
) -> None:
    first = fences(ROOT / "README.md", "python")[0]
    done = subprocess.run(
        [sys.executable, "-c", first],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = [line[3:] for line in first.splitlines() if line.startswith("#> ")]
    assert done.stdout.splitlines() == printed != []


@pytest.mark.parametrize("page", TOLD, ids=name_of)
def test_every_link_and_every_path_and_module_that_is_named_is_there(page: Path) -> None:
    text = page.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)", text)
    paths = re.findall(rf"(?<![\w/.-])(?:{ROOTS})/[\w./-]*\w", text)
    modules = re.findall(rf"-m ((?:{ROOTS})[\w.]*\w)", text)
    files = [ROOT.joinpath(*module.split(".")) for module in modules]
    assert [link for link in links if not (page.parent / link).exists()] == []
    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [f for f in files if not (f.is_dir() or f.with_suffix(".py").is_file())] == []


def test_every_public_name_is_in_an_example() -> None:
    shown = "\n".join(block for page in PAGES for block in fences(page, "python"))
    assert [name for name in __all__ if not re.search(rf"\b{name}\b", shown)] == []


def test_the_picture_in_the_readme_is_drawn_from_the_real_graph(servers: Any) -> None:
    from xrouter_lg import ModelPool

    node = XRouterNode(ModelPool.from_yaml("pool.yaml"), max_turns=3)
    drawn = node.graph.get_graph().draw_mermaid()
    (shown,) = fences(ROOT / "README.md", "mermaid")
    assert edges(shown) == edges(drawn)


def edges(picture: str) -> set[tuple[str, str, str]]:
    return set(re.findall(r"^\s*(\w+)\s*(-->|-\.->)\s*(\w+);?$", picture, re.MULTILINE))
