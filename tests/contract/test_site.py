"""The pages as a site, and what of them is drawn from the code."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.graph_pictures import DOC, drawn
from xrouter_lg import ModelCard

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / "docs" / "reference" / "environment.md"
CODE = ("xrouter_lg", "integrations", "graphs")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with every warning an error: a link without a target, a page that no menu has."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_command_is_in_the_reference(site: Path) -> None:
    from xrouter_lg.cli import _SUB_APPS

    page = (site / "reference" / "cli.html").read_text()
    assert [name for name in _SUB_APPS if f'id="xrouter-{name}"' not in page] == []
    assert "--feedback" in page and "Example: xrouter learn" in page


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    from xrouter_lg import __all__

    pages = [(site / "reference" / f"{name}.html").read_text() for name in ("api", "configuration")]
    shown = set(re.findall(r'id="xrouter_lg\.(\w+)"', "".join(pages)))
    assert set(__all__) - shown == set()


def test_a_setting_of_training_is_there_with_what_it_is_for(site: Path) -> None:
    page = (site / "reference" / "configuration.html").read_text()
    assert "Samples per prompt: a group." in page


def test_every_field_of_a_card_is_there(site: Path) -> None:
    page = (site / "reference" / "configuration.html").read_text()
    names = {field.name for field in dataclasses.fields(ModelCard) if field.init}
    assert names == set(re.findall(r'id="xrouter_lg\.ModelCard\.(\w+)"', page))


def test_a_diagram_is_one(site: Path) -> None:
    assert '<pre class="mermaid"><code>graph TD;' in (site / "graphs.html").read_text()


def test_a_source_file_that_a_page_links_to_is_a_page(site: Path) -> None:
    assert "def retrieve" in re.sub(
        r"<[^>]+>", "", (site / "repository" / "graphs" / "rag_app.py.html").read_text()
    )


def test_a_page_asks_nobody_else_for_anything(site: Path) -> None:
    asked = re.compile(r'<(?:script|link rel="stylesheet"|img)[^>]+(?:src|href)="(https?://[^"]+)')
    pages = [path for path in site.rglob("*.html") if "repository" not in path.parts]
    assert {url for page in pages for url in asked.findall(page.read_text())} == set()


def test_the_pictures_of_the_graphs_are_those_of_the_graphs() -> None:
    assert DOC.read_text().endswith(drawn()), "python -m tests.support.graph_pictures"


def test_the_table_of_variables_has_those_that_the_code_reads() -> None:
    sources = [path for root in CODE for path in (ROOT / root).rglob("*.py")]
    read = {name for p in sources for name in re.findall(r"\bXROUTER_[A-Z_]+\b", p.read_text())}
    told = set(re.findall(r"^\| `(XROUTER_[A-Z_]+)`", ENVIRONMENT.read_text(), re.MULTILINE))
    assert told == read


def test_the_plots_are_drawn_by_the_code(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tests.support.doc_plots import draw

    page = (ROOT / "docs" / "reward.md").read_text()
    for path in draw(tmp_path):
        assert f"images/{path.name}" in page
        assert path.read_text().count("<path") > 10
