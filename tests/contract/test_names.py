"""A public class name stands for one thing, wherever it is read."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("xrouter_lg", "training", "integrations", "benchmarks")

STILL_TWICE: dict[str, set[str]] = {
    "Answer": {"integrations.demo.recorded.recording", "xrouter_lg.types"},
    "Arm": {"integrations.demo.arms", "xrouter_lg.judge.gate.rules"},
    "Call": {"xrouter_lg.testing.answers", "xrouter_lg.types"},
    "Estimate": {"training.run.estimate", "xrouter_lg.policies.slots.prompts"},
    "Failure": {"xrouter_lg.calls.failures", "xrouter_lg.langsmith.polite"},
    "Finding": {"training.run.preflight_trl", "xrouter_lg.calls.check_pool"},
    "Judge": {"integrations.demo.recorded.scores", "xrouter_lg.verifiers.judge"},
    "Judged": {"xrouter_lg.fitting.cascade_choice", "xrouter_lg.judge.run"},
    "Reading": {"training.model.reading", "xrouter_lg.policies.slots.prompts"},
    "Recorded": {"integrations.demo.questions", "xrouter_lg.fitting.cascade"},
    "Served": {"integrations.demo.app", "xrouter_lg.policies.slots.remote_servers"},
    "Shape": {"integrations.llama_cpp.export_gguf", "training.run.estimate"},
    "Task": {
        "benchmarks.quality_rows",
        "benchmarks.training",
        "integrations.demo.recorded.task",
    },
    "Totals": {"xrouter_lg.calls.ledger", "xrouter_lg.testing.journal"},
    "Usage": {"xrouter_lg.testing.completion", "xrouter_lg.types"},
    "Weights": {"integrations.llama_cpp.catalogue", "xrouter_lg.backfill.value"},
}
"""Names that are yet to be told apart. Rename one and take it out; nothing new comes in."""


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
    twice = {name: modules for name, modules in classes().items() if len(modules) > 1}
    new = {name: sorted(modules) for name, modules in twice.items() if name not in STILL_TWICE}
    assert not new, "another class has that name already; choose one that says what this one is"


def test_the_list_of_names_that_stand_for_two_things_is_no_longer_than_true() -> None:
    found = classes()
    stale = {name: sorted(found.get(name, ())) for name in STILL_TWICE}
    assert stale == {name: sorted(modules) for name, modules in STILL_TWICE.items()}
