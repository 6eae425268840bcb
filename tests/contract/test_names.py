"""A public class name stands for one thing, wherever it is read."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("xrouter_lg", "training", "integrations", "benchmarks")


def classes() -> dict[str, set[str]]:
    """Every public class at a module's top level, with the modules that define one so named."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for path in (path for room in ROOMS for path in (ROOT / room).rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].add(module)
    return found


def test_no_class_name_stands_for_two_things() -> None:
    twice = {name: sorted(modules) for name, modules in classes().items() if len(modules) > 1}
    assert not twice, "another class has that name already; choose one that says what this one is"
