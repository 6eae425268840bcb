"""The rooms and who imports whom, as the diagram in docs/architecture.md.

python -m tests.support.architecture     draws it anew from the imports of the code
"""

from __future__ import annotations

import re
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[2]
DOC = ROOT / "docs" / "architecture.md"
ROOTS = ("xrouter_lg", "training", "integrations", "benchmarks", "graphs")
_FENCE = re.compile(r"(```mermaid\n)(.*?)(```)", re.DOTALL)

Edges = set[tuple[str, str]]


def room_edges() -> Edges:
    """(importer, imported) over the rooms of the package and the other roots, type-only imports
    included."""
    graph = grimp.build_graph(*ROOTS, cache_dir=None)
    edges: Edges = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            pair = _room(module), _room(imported)
            if pair[0] != pair[1] and "xrouter_lg" not in pair:
                edges.add(pair)
    return edges


def reduced(edges: Edges) -> Edges:
    """The edges that no longer way says already: what is drawn of a graph without cycles."""
    below: dict[str, set[str]] = {}
    for importer, imported in edges:
        below.setdefault(importer, set()).add(imported)

    def reach(room: str, seen: set[str]) -> set[str]:
        for next_room in below.get(room, ()):
            if next_room not in seen:
                seen.add(next_room)
                reach(next_room, seen)
        return seen

    return {
        (a, b)
        for a, b in edges
        if not any(b in reach(other, set()) for other in below[a] if other != b)
    }


def diagram() -> str:
    """Mermaid source: an arrow goes from a room to one that it imports."""
    lines = ["graph TD;"]
    lines += [
        f"    {a.replace('.', '_')}[{a}] --> {b.replace('.', '_')}[{b}];"
        for a, b in sorted(reduced(room_edges()))
    ]
    return "\n".join(lines) + "\n"


def drawn() -> str:
    """The diagram as the document has it."""
    found = _FENCE.search(DOC.read_text(encoding="utf-8"))
    return "" if found is None else found[2]


def _room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] != "xrouter_lg" or len(parts) == 1 else parts[1]


if __name__ == "__main__":
    text = DOC.read_text(encoding="utf-8")
    DOC.write_text(_FENCE.sub(lambda m: m[1] + diagram() + m[3], text, count=1), encoding="utf-8")
