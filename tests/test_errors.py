"""The error tree: bases, messages, and the way through pickle."""

from __future__ import annotations

import ast
import builtins
import importlib
import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from integrations.demo.commands import CommandFailedError
from xrouter_lg import errors
from xrouter_lg.errors import (
    AllCandidatesFailedError,
    ErrorClass,
    MissingExtraError,
    NoCandidateError,
    StreamInterruptedError,
    WorkerError,
    XRouterError,
)
from xrouter_lg.langsmith.errors import FeedbackNotSentError, LangSmithRefusedError
from xrouter_lg.serve.api_errors import ApiError
from xrouter_lg.serve.live import ClientLeftError
from xrouter_lg.testing.service import FakeRefusedError

ROOT = Path(__file__).parents[1]
ALONE = {"NotPlainError", "NotYamlError"}
"""Of code that runs in a sandbox, without the package, and what each reader makes its own of."""

_DRAWN = re.compile(r"^    (?P<bars>[│ ]*)[├└]── (?P<name>\w+)(?: \((?P<bases>[\w, ]+)\))?", re.M)


def drawn() -> dict[str, set[str]]:
    """The bases of each class in the tree of the module's docstring."""
    found: dict[str, set[str]] = {}
    above = ["XRouterError"]
    for match in _DRAWN.finditer(errors.__doc__ or ""):
        depth = len(match["bars"]) // 4
        del above[depth + 1 :]
        others = set(match["bases"].split(", ")) if match["bases"] else set()
        found[match["name"]] = {above[-1], *others}
        above.append(match["name"])
    return found


def defined() -> dict[str, tuple[str, set[str]]]:
    """The module and the bases of each error class of ours, read from the sources: some can be
    imported only where torch is."""
    classes: list[tuple[str, str, set[str]]] = []
    for folder in ("xrouter_lg", "training", "integrations"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ClassDef):
                    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                    classes.append((node.name, module, bases))
    kinds = {n for n, kind in vars(builtins).items() if isinstance(kind, type)}
    kinds = {name for name in kinds if issubclass(getattr(builtins, name), Exception)}
    found: dict[str, tuple[str, set[str]]] = {}
    while True:
        more = [c for c in classes if c[2] & {*kinds, *found} and found.get(c[0]) != c[1:]]
        if not more:
            return found
        for name, module, bases in more:
            assert name not in found, f"{name} in {module} and in {found[name][0]}"
            found[name] = module, bases


ERRORS = {name: module for name, (module, _) in defined().items() if name not in ALONE}

WITH_ATTRIBUTES: list[tuple[XRouterError, dict[str, Any]]] = [
    (NoCandidateError({"a": "denied"}), {"removed": {"a": "denied"}}),
    (
        WorkerError("a", ErrorClass.TIMEOUT, "60 s"),
        {"card": "a", "error_class": ErrorClass.TIMEOUT, "detail": "60 s"},
    ),
    (
        StreamInterruptedError("a", ErrorClass.STREAM_CUT, "cut"),
        {"card": "a", "error_class": ErrorClass.STREAM_CUT, "detail": "cut"},
    ),
    (
        AllCandidatesFailedError([{"card": "a", "error": "server", "cost_usd": None}]),
        {"attempts": [{"card": "a", "error": "server", "cost_usd": None}]},
    ),
    (
        MissingExtraError("typer", "cli", "the xrouter command"),
        {"package": "typer", "extra": "cli", "purpose": "the xrouter command"},
    ),
    (ApiError(404, "no such model", code="c", param="model"), {"status": 404, "param": "model"}),
    (ClientLeftError(), {"status": 499}),
    (LangSmithRefusedError("HTTP 400", status=400), {"status": 400}),
    (FeedbackNotSentError("kept", "f1"), {"feedback_id": "f1"}),
    (CommandFailedError("xrouter judge", 2), {}),
    (FakeRefusedError(404, "no such model", "model_not_found"), {"status": 404}),
]


def test_the_tree_of_the_docstring_is_the_tree_of_the_classes() -> None:
    ours = {name: bases for name, (_, bases) in defined().items() if name not in ALONE}
    del ours["XRouterError"]
    assert drawn() == ours


@pytest.mark.parametrize(("error", "attributes"), WITH_ATTRIBUTES, ids=lambda it: type(it).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_keeps_its_attributes_and_text_through_pickle(
    error: XRouterError, attributes: dict[str, Any], protocol: int
) -> None:
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert {name: getattr(copy, name) for name in attributes} == attributes


@pytest.mark.parametrize(
    "name", sorted(ERRORS.keys() - {type(e).__name__ for e, _ in WITH_ATTRIBUTES})
)
def test_a_plain_error_keeps_its_text_through_pickle(name: str) -> None:
    if name == "TrainingInterruptedError":
        pytest.importorskip("transformers")
    error = getattr(importlib.import_module(ERRORS[name]), name)("what, where, fix")
    error.add_note("and a note")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.__notes__) == ("what, where, fix", ["and a note"])


def test_no_candidate_names_the_rule_beside_each_card() -> None:
    text = str(NoCandidateError({"small": "in the deny list", "large": "context too long"}))
    assert "'small': in the deny list" in text
    assert "'large': context too long" in text


def test_a_failed_attempt_of_unknown_cost_is_not_shown_as_free() -> None:
    text = str(AllCandidatesFailedError([{"card": "a", "error": "timeout", "cost_usd": None}]))
    assert "cost unknown" in text
    assert "$0" not in text


def test_a_known_cost_is_shown_in_usd_with_the_detail() -> None:
    attempt = {"card": "a", "error": "server", "cost_usd": "0.002", "detail": "503"}
    assert "'a' server (cost $0.002): 503" in str(AllCandidatesFailedError([attempt]))


def test_all_failed_without_an_attempt_says_so() -> None:
    assert "none could be tried" in str(AllCandidatesFailedError([]))


def test_an_attempt_given_is_copied_not_shared() -> None:
    attempt = {"card": "a"}
    error = AllCandidatesFailedError([attempt])
    attempt["card"] = "b"
    assert error.attempts == [{"card": "a"}]


def test_a_missing_extra_names_the_pip_command() -> None:
    assert 'pip install "xrouter_lg[cli]"' in str(MissingExtraError("typer", "cli", "the command"))
