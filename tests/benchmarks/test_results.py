"""A row of results names the command that gives it again."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from benchmarks.results import RESULTS, command

ROOT = RESULTS.parents[1]


def begun(monkeypatch: pytest.MonkeyPatch, module: str | None, *words: str) -> None:
    main = ModuleType("__main__")
    main.__spec__ = None if module is None else ModuleSpec(module, None)
    monkeypatch.setitem(sys.modules, "__main__", main)
    monkeypatch.setattr(sys, "argv", list(words))


def test_a_module_is_named_as_it_was_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(ROOT / "benchmarks" / "experiments" / "head_grpo.py")
    begun(monkeypatch, "benchmarks.experiments.head_grpo", path, "--splits", "2")
    assert command() == "python -m benchmarks.experiments.head_grpo --splits 2"


@pytest.mark.parametrize("script", ["benchmarks/store.py", str(ROOT / "benchmarks" / "store.py")])
def test_a_script_is_named_by_its_path_in_the_checkout(
    script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    begun(monkeypatch, None, script, "--data", "/home/somebody/dev_train")
    assert command() == "python benchmarks/store.py --data dev_train"


def test_every_row_names_a_file_that_is_there() -> None:
    rows = [line.split("`")[1].split() for line in RESULTS.read_text().splitlines()[6:]]
    places = [row[2].replace(".", "/") + ".py" if row[1] == "-m" else row[1] for row in rows]
    assert len(places) > 20
    assert [place for place in places if not (ROOT / place).is_file()] == []
