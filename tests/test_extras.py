"""Every package that may be missing is named with the extra that brings it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from xrouter_lg.cli.said import said
from xrouter_lg.errors import MissingExtraError
from xrouter_lg.extras import EXTRAS, missing, need

ROOT = Path(__file__).parents[1]
BROUGHT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize(("package", "extra"), EXTRAS.items())
def test_the_extra_that_is_named_brings_the_package(package: str, extra: str) -> None:
    assert package in {re.split(r"[\[<>=]", line)[0] for line in BROUGHT[extra]}


def asked_for() -> set[tuple[str, str]]:
    """Each module that our code asks for by name, and where."""
    found = set()
    for folder in ("xrouter_lg", "training", "integrations"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in ("need", "missing")
                    and isinstance(node.args[0], ast.Constant)
                ):
                    found.add((node.args[0].value, str(path.relative_to(ROOT))))
    return found


def test_every_module_that_is_asked_for_has_its_extra() -> None:
    asked = asked_for()
    assert len(asked) > 10
    for module, _ in asked:
        assert missing(module, "a test").package in EXTRAS


def test_a_missing_module_is_an_error_that_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    told = r"a checkpoint needs 'safetensors'.*\[checkpoint\]"
    with pytest.raises(MissingExtraError, match=told):
        need("safetensors.numpy", "a checkpoint")


def test_a_module_is_named_by_what_pip_installs() -> None:
    assert missing("sklearn.pipeline", "a baseline").package == "scikit-learn"


def test_a_command_without_its_library_names_the_extra(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit), said():
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    assert 'pip install "xrouter_lg[data]"' in capsys.readouterr().err
