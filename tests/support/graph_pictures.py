"""Pictures of the graphs to copy, as docs/graphs.md has them.

python -m tests.support.graph_pictures     draws them anew
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "graphs.md"
_PICTURES = re.compile(r"\n## `.*", re.DOTALL)


def entries() -> dict[str, str]:
    """Name of each graph to its place, as LangGraph's server reads it."""
    graphs: dict[str, str] = json.loads((ROOT / "langgraph.json").read_text())["graphs"]
    return graphs


def compiled(entry: str) -> Any:
    """The graph at a place such as ``./graphs/rag_app.py:graph``."""
    file, name = entry.removeprefix("./").split(":")
    return getattr(import_module(file.removesuffix(".py").replace("/", ".")), name)


def pictures() -> Iterator[str]:
    """A section for each graph: its file, what it is for, how it looks."""
    for name, entry in entries().items():
        file = entry.removeprefix("./").partition(":")[0]
        told = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or ""
        drawn = compiled(entry).get_graph(xray=True).draw_mermaid(with_styles=False)
        plain = "\n".join(line.rstrip() for line in drawn.splitlines())
        yield f"\n## `{name}`\n\n{told.partition(chr(10))[0]} [Source](../{file})"
        yield f"\n```mermaid\n{plain}\n```"


def drawn() -> str:
    """The sections, as the page should have them."""
    return "\n".join(pictures()) + "\n"


if __name__ == "__main__":
    text = _PICTURES.sub("", DOC.read_text(encoding="utf-8")).rstrip("\n")
    DOC.write_text(text + "\n" + drawn(), encoding="utf-8")
