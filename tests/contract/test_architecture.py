"""The drawn structure is the one that the code has."""

from __future__ import annotations

from pathlib import Path

from tests.support.architecture import ROOT, diagram, drawn

MOST_FILES = 15


def test_the_diagram_shows_the_imports_of_the_code() -> None:
    assert drawn() == diagram(), "run: python -m tests.support.architecture"


def test_every_room_of_the_package_is_described() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = [path.parent.name for path in (ROOT / "xrouter_lg").glob("*/__init__.py")]
    assert [room for room in rooms if f"| `{room}` |" not in text] == []


def test_no_folder_of_code_holds_more_than_fifteen_files() -> None:
    crowded = {
        str(folder.relative_to(ROOT)): count
        for root in ("xrouter_lg", "training", "integrations", "benchmarks", "graphs")
        for folder in [ROOT / root, *_folders(ROOT / root)]
        if (count := len(list(folder.glob("*.py")))) > MOST_FILES
    }
    assert crowded == {}


def _folders(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_dir() and path.name != "__pycache__"]
