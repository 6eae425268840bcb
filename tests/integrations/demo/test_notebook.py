"""The notebook of the pages, from top to bottom in a kernel of its own."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

BOOK = Path(__file__).resolve().parents[3] / "docs" / "traces_to_verdict.ipynb"


@pytest.mark.timeout(600)
def test_the_notebook_goes_from_traces_to_a_verdict() -> None:
    book = nbformat.read(BOOK, 4)
    NotebookClient(book, timeout=300, kernel_name="python3").execute(cwd=str(BOOK.parent))
    outputs = [out for cell in book.cells for out in cell.get("outputs", [])]
    assert sum("image/png" in out.get("data", {}) for out in outputs) == 2
    assert outputs[-1]["text"].startswith(("promote", "not promoted"))
