"""No text that anyone may send costs more time than it is long."""

from __future__ import annotations

import ast
import importlib
import json
import os
import pkgutil
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from langchain_core.messages import AIMessage, HumanMessage

import xrouter_lg
from tests.support.hostile import COMMON, attacks, grown, growth
from xrouter_lg.calls.failures import classify
from xrouter_lg.calls.media import medium_of
from xrouter_lg.calls.tokens import prompt_size
from xrouter_lg.calls.worker.refusals import largest_limit, refused_parameter
from xrouter_lg.checkpoints.family_head import bucket_counts
from xrouter_lg.checkpoints.tool_fit import tool_features
from xrouter_lg.final_answer import final_answer
from xrouter_lg.pool.names import same_model
from xrouter_lg.prompts.render import conversation
from xrouter_lg.prompts.slots import render_question
from xrouter_lg.said import flaw_of
from xrouter_lg.tracing import redact_patterns
from xrouter_lg.tracing.runs import redact
from xrouter_lg.verifiers.text import chosen_letter

ROOT = Path(xrouter_lg.__file__).parent
LONGEST = 5_000_000 if os.environ.get("XROUTER_LONG_TESTS") else 500_000
"""Characters; `make faults` goes up to five megabytes."""

BOUNDED = {
    ("pool.names", "_SNAPSHOT"): "sees names of at most 200 characters",
    ("said.ending", "_JOINED"): "sees words of at most 2,000 characters",
}
"""Patterns that are not linear, and why that does not matter: they never see a long text."""

OWN = {
    ("tracing.runs.redact", "pattern"): "the app's own redaction; its docstring says so",
    ("policies.rules", "pattern"): "the app's own rules, on 20,000 characters at most",
    ("verifiers.base", "value"): "compiled to be checked, run by `regex` with a time limit",
    ("verifiers.base", None): "a field's name and a text in quotes, which the next quote ends",
    ("verifiers.text", "pattern"): "compiled to be checked, run by `regex` with a time limit",
    ("calls.failures", "pattern"): "a table of the module, which is looked at as such",
    ("calls.worker.refusals", "pattern"): "a table of the module, which is looked at as such",
    ("calls.worker.refusals", None): "a parameter's name in its spellings, without a repeat",
    ("episodes.scoring", None): "a scale that a command line names",
    ("cli.newcomer.providers", "pattern"): "a table of the module, on names of published models",
    ("testing.langsmith.server", "pattern"): "paths of a loopback server",
    ("said.ending", "_WORD"): "words, on 2,000 characters at most",
    ("said.ending", None): "the same",
}
"""Patterns that are no constants, by module and name, and what bounds them."""


class Used(NamedTuple):
    module: str
    name: str
    pattern: re.Pattern[Any]
    methods: frozenset[str]


@cache
def patterns() -> tuple[Used, ...]:
    """Every regular expression of the package, with the methods that it is used by."""
    found: list[Used] = []
    for info in pkgutil.walk_packages(xrouter_lg.__path__, "xrouter_lg."):
        if info.name.endswith("__main__") or ".sandbox." in info.name:
            continue
        module = importlib.import_module(info.name)
        source = Path(str(module.__file__)).read_text(encoding="utf-8")
        where = info.name.removeprefix("xrouter_lg.")
        for name, value in vars(module).items():
            used = frozenset(
                re.findall(rf"\b{name}\.(search|match|fullmatch|sub|find\w+)\(", source)
            )
            found += [Used(where, name, p, used or frozenset({"search"})) for p in _inside(value)]
        for place, pattern, method in _inline(ast.parse(source)):
            if pattern is not None:
                found.append(Used(where, place or "", re.compile(pattern), frozenset({method})))
    first = {(used.pattern, used.methods): used for used in reversed(found)}
    return tuple(first.values())


def _inside(value: Any, depth: int = 0) -> Iterator[re.Pattern[Any]]:
    if isinstance(value, re.Pattern):
        yield value
    elif depth < 3 and isinstance(value, (tuple, list)):
        for item in value:
            yield from _inside(item, depth + 1)


def _inline(tree: ast.Module) -> Iterator[tuple[str | None, str | bytes | None, str]]:
    """Calls of ``re`` with their pattern: its name, its text where it is a constant, the method."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "re"
            and node.func.attr not in ("escape", "compile", "purge")
        ) or _compiles_in_a_function(tree, node):
            assert isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            given = node.args[0]
            text = given.value if isinstance(given, ast.Constant) else None
            name = given.id if isinstance(given, ast.Name) else None
            method = "search" if node.func.attr == "compile" else node.func.attr
            yield name, text if isinstance(text, (str, bytes)) else None, method


def _compiles_in_a_function(tree: ast.Module, node: ast.AST) -> bool:
    if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile"):
        return False
    return any(
        isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        and function.lineno <= node.lineno <= (function.end_lineno or 0)
        for function in ast.walk(tree)
    )


def test_every_pattern_that_is_no_constant_says_what_bounds_it() -> None:
    strange = {
        (".".join(path.relative_to(ROOT).with_suffix("").parts), name)
        for path in ROOT.rglob("*.py")
        for name, text, _ in _inline(ast.parse(path.read_text(encoding="utf-8")))
        if text is None
    }
    assert strange <= set(OWN), "say in OWN what bounds these"


def run(pattern: re.Pattern[Any], method: str) -> Callable[[str], object]:
    def act(text: str) -> object:
        given = (
            text.encode("utf-8", "surrogatepass") if isinstance(pattern.pattern, bytes) else text
        )
        if method in ("match", "fullmatch", "search"):
            return getattr(pattern, method)(given)
        return sum(1 for _ in pattern.finditer(given))

    return act


@pytest.mark.parametrize("used", patterns(), ids=lambda used: f"{used.module}-{used.name}")
def test_a_pattern_takes_no_longer_than_its_text_is_long(used: Used) -> None:
    if (used.module, used.name) in BOUNDED:
        return
    shapes = [*attacks(used.pattern), *(("", body, "\x00") for body in COMMON)]
    for method in used.methods:
        for shape in shapes:
            why = growth(run(used.pattern, method), partial(grown, *shape), 128_000)
            assert why is None, f"{used.module}.{used.name} ({method}) on {shape!r}: {why}"


def test_the_attacks_find_a_pattern_that_is_not_linear() -> None:
    quadratic = re.compile(r"_(?=[A-Za-z0-9][\w.-]{15})[\w.-]*\d")
    assert any(
        growth(run(quadratic, "search"), partial(grown, *shape), 40_000)
        for shape in attacks(quadratic)
    )


class _Told(Exception):
    status_code = 400


def _row(text: str) -> object:
    return redact.scrub_row({"inputs": json.dumps({"x": text})}, {"name": text}, ())


WHOLE: dict[str, Callable[[str], object]] = {
    "the recorder's row": _row,
    "an error's text": lambda text: redact.scrub_text(text, ("sk-planted",)),
    "the store's patterns": redact_patterns(
        redact.EMAIL, redact.PHONE, redact.PAYMENT_CARD, redact.IBAN
    ),
    "a provider's error": lambda text: classify(_Told(text)),
    "a refused parameter": lambda text: refused_parameter(_Told(text), ["temperature"]),
    "a limit above a model's own": lambda text: largest_limit(_Told(text)),
    "how an answer ended": lambda text: flaw_of(
        AIMessage(text, response_metadata={"finish_reason": text})
    ),
    "a final answer": final_answer,
    "a chosen letter": chosen_letter,
    "a prompt's size": lambda text: prompt_size([HumanMessage(text)], ()),
    "a file in a prompt": lambda text: medium_of(
        {"type": "file", "base64": text, "mime_type": "application/pdf"}
    ),
    "words of a request": bucket_counts,
    "a request's tools": lambda text: tool_features(text, lambda _: 1.0),
    "a routing prompt": lambda text: conversation([HumanMessage(text)]),
    "a question for slots": lambda text: render_question([HumanMessage(text)]),
    "a served model": lambda text: same_model(text, "gpt-5-mini"),
}  # fmt: skip
"""What sees a prompt, an answer or a provider's error."""

LONG_SHAPES = (
    "_", "a_", "api_key", "user_account_setting_value_", " ", "1", "token:", "bearer ", "eyJ-",
    "<think></think>", '{"a":', "\\text{", "<  ", "-----BEGIN PRIVATE KEY-----", "a@", "é\ud83d",
)  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_anything_that_may_be_sent_is_read_in_linear_time(name: str) -> None:
    for body in LONG_SHAPES:
        why = growth(WHOLE[name], partial(grown, "", body, ""), LONGEST)
        assert why is None, f"{name} on {body!r}: {why}"
