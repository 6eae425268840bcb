"""Runs in a second sandbox: executes the tests, with stand-ins for the answer's functions.

The answer lives in another process and is reached by plain data only, so it can neither leave
before the tests run nor change what they compare with. One JSON verdict goes to a descriptor that
the answer's process does not have.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any

_here = os.path.dirname(os.path.abspath(__file__))
_spec = importlib.util.spec_from_file_location("wire", os.path.join(_here, "wire.py"))
assert _spec is not None and _spec.loader is not None
wire = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(wire)


class AnswerEnded(BaseException):
    """The answer's process is gone or talks nonsense: no test can save it (nor catch this)."""


class Unsupported(BaseException):
    """The tests need more than plain data of the answer: no verdict this way."""


class AnswerProcess:
    """The answer's process, seen from the tests."""

    def __init__(self, line: Any) -> None:
        self._line = line

    def ask(self, message: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            if message is not None:
                self._line.send(message)
            reply: dict[str, Any] = self._line.receive()
        except (EOFError, BrokenPipeError):
            raise AnswerEnded("the answer's process ended") from None
        except ValueError as error:
            raise AnswerEnded(f"the answer's process sent {error}") from None
        return reply

    def function(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            try:
                request = {"name": name, "args": wire.pack(args), "named": wire.pack(named)}
            except wire.NotPlainError as error:
                raise Unsupported(f"a test passes {error} to {name}") from None
            reply = self.ask(request)
            if "raised" in reply:
                raise _built_in(reply["raised"])(reply.get("text", ""))
            result = _plain(reply, name)
            for given, became in zip(args, wire.unpack(reply.get("after")) or (), strict=False):
                _update(given, became)
            return result

        call.__name__ = name
        return call

    def value(self, name: str) -> Any:
        return _plain(self.ask({"name": name}), name)


def _plain(reply: dict[str, Any], name: str) -> Any:
    if "unplain" in reply:
        raise AssertionError(f"{name} gave {reply['unplain']}, not plain data")
    try:
        return wire.unpack(reply["value"])
    except Exception as error:
        raise AnswerEnded(f"the answer's process sent nonsense: {error}") from None


def _built_in(names: list[str]) -> type[Exception]:
    """The nearest built-in exception; what is none (SystemExit) becomes a RuntimeError."""
    for name in names:
        found = getattr(builtins, str(name), None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found
    return RuntimeError


def _update(given: Any, became: Any) -> None:
    if type(given) is type(became) and given != became:
        if isinstance(given, list | bytearray):
            given[:] = became
        elif isinstance(given, dict | set):
            given.clear()
            given.update(became)


def _names_read(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def _space(answer: AnswerProcess, trees: list[ast.Module], entry: str | None) -> dict[str, Any]:
    """Globals of the tests: only what they name, and never a built-in's name."""
    opening = answer.ask()
    if "names" not in opening:
        raise AnswerEnded(f"the answer does not run: {opening.get('failed', 'no reason')}")
    named = set().union(*(_names_read(tree) for tree in trees)) | ({entry} if entry else set())
    space: dict[str, Any] = {"__name__": "tests"}
    for name, kind in opening["names"].items():
        if name not in named or (hasattr(builtins, name) and name != entry):
            continue
        if kind.startswith("module "):  # tests often count on the answer's imports
            module = kind.split()[1]
            if module.partition(".")[0] in sys.stdlib_module_names:
                space[name] = importlib.import_module(module)
            continue
        if kind == "class":
            raise Unsupported(f"the tests use the class {name}: set `process: same` to allow it")
        space[name] = answer.function(name) if kind == "function" else answer.value(name)
    return space


def judge(answer: AnswerProcess, tests: list[str], entry: str | None) -> dict[str, Any]:
    try:
        trees = [ast.parse(test) for test in tests]
    except SyntaxError as error:
        raise Unsupported(f"the tests don't compile: {error}") from None
    space = _space(answer, trees, entry)
    failures: list[str] = []
    for tree in trees:
        try:
            exec(compile(tree, "tests.py", "exec"), space)  # noqa: S102
            if entry is not None and callable(space.get("check")):
                if entry not in space:
                    raise NameError(f"the answer does not define {entry}")
                space.pop("check")(space[entry])
        except Exception as error:
            failures.append(f"{type(error).__name__}: {error}"[:200])
    return {"tests": len(tests), "failed": len(failures), "failures": failures[:3]}


def main() -> None:
    read, write, report = (int(text) for text in sys.argv[1:4])
    with open(os.path.join(_here, "tests.json"), encoding="utf-8") as stream:
        plan = json.load(stream)
    try:
        result = judge(AnswerProcess(wire.Line(read, write)), plan["tests"], plan["entry"])
    except (AnswerEnded, AssertionError) as error:
        result = {"ended": str(error)}
    except Unsupported as error:
        result = {"unsupported": str(error)}
    os.write(report, json.dumps(result).encode())


if __name__ == "__main__":
    main()
