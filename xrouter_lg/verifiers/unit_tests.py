"""Code that has to work: the answer is run against tests, in the sandbox."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from xrouter_lg.verifiers.base import (
    Case,
    Unverifiable,
    Verdict,
    Verifier,
    VerifierConfigError,
    extract_part,
)
from xrouter_lg.verifiers.sandbox.run import (
    Ended,
    Isolation,
    Limits,
    Program,
    SandboxError,
    best_isolation,
    say_what_is_open,
    why_not_higher,
)

_HERE = Path(__file__).parent / "sandbox"
_MAX_RUNS = 50
_ADD = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
_RUN_SCRIPT = """\
import runpy, sys
sys.stdin = open("input.txt", encoding="utf-8")
sys.argv = ["answer.py"]
runpy.run_path("answer.py", run_name="__main__")
"""
_SAME_PROCESS = """\
import json, os, sys, traceback
report = int(sys.argv[1])
plan = json.load(open("tests.json", encoding="utf-8"))
space = {"__name__": "answer"}
exec(compile(open("answer.py", encoding="utf-8").read(), "answer.py", "exec"), space)
failures = []
for test in plan["tests"]:
    try:
        exec(compile(test, "tests.py", "exec"), space)
        if plan["entry"] and callable(space.get("check")):
            space.pop("check")(space[plan["entry"]])
    except Exception as error:
        failures.append(f"{type(error).__name__}: {error}"[:200])
os.write(report, json.dumps({"tests": len(plan["tests"]), "failed": len(failures),
                             "failures": failures[:3]}).encode())
"""


class UnitTests(Verifier):
    """The answer's Python (its last code block, or all of it) passes every test.

    The reference is test code with ``assert``; a list of such tests; a list of
    ``{"input": ..., "output": ...}`` for programs that read and print; or
    ``{"tests": ..., "entry_point": ...}``, where ``check(candidate)`` is called with the entry
    point as HumanEval has it. A JSON text of any of these is read as such.

    Tests and answer run in two sandboxes that exchange plain data, so an answer that exits early,
    patches ``assert`` helpers or returns an object equal to everything gains nothing. Tests that
    need an object of the answer's own class take ``process="same"``: one sandbox for both, where
    a hostile answer can forge its verdict.

    ``isolation`` is the least that will do (:mod:`xrouter_lg.verifiers.sandbox.run`): with
    ``full``, ``partial`` or ``weak``, every verdict is None on a machine that offers less. ``best``
    takes what there is and says once where that is less than full. ``partial_credit`` scores the
    share of tests passed.
    """

    name: ClassVar[str] = "unit_tests"
    cases: ClassVar[Sequence[Case]] = (
        Case("```python\ndef add(a, b):\n    return a + b\n```", _ADD),
        Case("a, b = map(int, input().split())\nprint(a + b)", [{"input": "1 2", "output": "3"}]),
        Case("```python\ndef add(a, b):\n    return a - b\n```", _ADD, good=False),
        Case("import sys\nsys.exit(0)", _ADD, good=False),
        Case("print(4)", [{"input": "1 2", "output": "3"}], good=False),
    )

    def __init__(
        self,
        *,
        timeout_s: int = 5,
        memory_mb: int = 512,
        isolation: str = "best",
        process: str = "two",
        partial_credit: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**{"extract": "code", **options})
        try:
            self.limits = Limits(cpu_s=timeout_s, memory_mb=memory_mb)
        except ValueError as error:
            raise VerifierConfigError(str(error)) from error
        if isolation not in ("best", *Isolation):
            raise VerifierConfigError(
                f"isolation is {isolation!r}; it is one of best, {', '.join(Isolation)}"
            )
        self.isolation = None if isolation == "best" else Isolation(isolation)
        if process not in ("two", "same"):
            raise VerifierConfigError(f"process is {process!r}; it is 'two' or 'same'")
        self.process, self.partial_credit = process, partial_credit

    def default_cases(self) -> Sequence[Case]:
        # Built-in cases are judged with extract "all"; the code block is cut out in verify().
        return self.cases

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        answer = extract_part(answer, "code") or ""
        tests, entry = _parse_tests(reference, meta)
        try:
            self._check_isolation()
            if isinstance(tests[0], Mapping):
                return self._graded(self._print_tests(answer, tests))
            return self._graded(
                self._code_tests(answer, json.dumps({"tests": tests, "entry": entry}))
            )
        except SandboxError as error:
            raise Unverifiable(str(error)) from error

    def _check_isolation(self) -> None:
        if self.isolation is None:
            say_what_is_open()
        elif not (best := best_isolation()).covers(self.isolation):
            raise Unverifiable(
                f"this machine isolates at {best!s}, {self.isolation!s} is asked for "
                f"({why_not_higher()}): grade on a machine that does, or accept what there is with "
                f"`isolation: {best!s}`"
            )

    def _graded(self, result: Mapping[str, Any]) -> Verdict:
        if "unsupported" in result:
            raise Unverifiable(result["unsupported"])
        if "ended" in result:
            return Verdict(0.0, result["ended"])
        total, failed = int(result["tests"]), int(result["failed"])
        share = (total - failed) / total
        score = share if self.partial_credit else float(failed == 0)
        return Verdict(score, "; ".join(result["failures"]) or f"{total} passed")

    def _code_tests(self, answer: str, plan: str) -> Mapping[str, Any]:
        with contextlib.ExitStack() as stack:
            report = stack.enter_context(_Pipe())
            if self.process == "same":
                files = {"main.py": _SAME_PROCESS, "answer.py": answer, "tests.json": plan}
                judge = stack.enter_context(self._program(files, [report.write]))
                return self._result(judge, report, None)
            asked, told = stack.enter_context(_Pipe()), stack.enter_context(_Pipe())
            host = {**_host("answer_host.py"), "answer.py": answer}
            code = stack.enter_context(self._program(host, [asked.read, told.write]))
            tester = {**_host("test_host.py"), "tests.json": plan}
            keep = [told.read, asked.write, report.write]
            judge = stack.enter_context(self._program(tester, keep))
            # Only the two programs may hold these ends, or neither sees the other go.
            asked.close(asked.read, asked.write)
            told.close(told.read, told.write)
            return self._result(judge, report, code)

    def _program(self, files: Mapping[str, str], keep: Sequence[int]) -> Program:
        args = [str(descriptor) for descriptor in keep]
        return Program(files, limits=self.limits, keep=keep, args=args)

    def _result(self, judge: Program, report: _Pipe, code: Program | None) -> Mapping[str, Any]:
        report.close(report.write)
        ended = judge.wait()
        text = os.read(report.read, 65536)
        answer_end = None if code is None else code.finished(0.2)
        if not text:
            if code is None:  # in one process, what ends the process is the answer's doing
                return {"ended": f"the answer ended before the tests did: {_how(ended)}"}
            if answer_end is None or ended.cause == "wall":
                return {"ended": f"the answer did not come back: {_how(ended)}"}
            return {"unsupported": f"the tests themselves failed: {_how(ended)}"}
        result: dict[str, Any] = json.loads(text)
        if "ended" in result and answer_end is not None and answer_end.cause is not None:
            result["ended"] = f"the answer used more than its limit: {_how(answer_end)}"
        return result

    def _print_tests(self, answer: str, tests: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        failures: list[str] = []
        for number, test in enumerate(tests[:_MAX_RUNS], 1):
            files = {
                "main.py": _RUN_SCRIPT,
                "answer.py": answer,
                "input.txt": str(test["input"]),
            }
            with Program(files, limits=self.limits) as program:
                ended = program.wait()
            if not ended.ok:
                failures.append(f"test {number}: {_how(ended)}")
            elif _lines(ended.stdout) != _lines(str(test["output"])):
                failures.append(f"test {number}: printed {ended.stdout[:80]!r}")
            if failures and not self.partial_credit:
                break
        return {"tests": len(tests[:_MAX_RUNS]), "failed": len(failures), "failures": failures[:3]}


def _host(name: str) -> dict[str, str]:
    texts = {"main.py": name, "wire.py": "wire.py"}
    return {name: (_HERE / file).read_text(encoding="utf-8") for name, file in texts.items()}


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _how(ended: Ended) -> str:
    if ended.cause is not None:
        limit = {"cpu": "CPU time", "wall": "time", "output": "output"}[ended.cause]
        return f"out of {limit}"
    last = ended.stderr.strip().splitlines()[-1:] or [f"exit status {ended.status}"]
    return last[0][:200]


class _Pipe:
    """A pipe whose ends can be closed early; leaving it closes the rest, once."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        self._open = {self.read, self.write}

    def close(self, *ends: int) -> None:
        for end in ends:
            self._open.remove(end)
            os.close(end)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close(*list(self._open))


def _parse_tests(reference: Any, meta: Mapping[str, Any]) -> tuple[list[Any], str | None]:
    if reference is None:
        reference = meta.get("tests")
    if isinstance(reference, str) and reference.lstrip()[:1] in ("[", "{"):
        with contextlib.suppress(ValueError):
            reference = json.loads(reference)
    entry = meta.get("entry_point")
    if isinstance(reference, Mapping):
        entry = reference.get("entry_point", entry)
        reference = reference.get("tests", reference.get("test"))
    tests = [reference] if isinstance(reference, str) else list(reference or ())
    texts = all(isinstance(test, str) and test.strip() for test in tests)
    pairs = all(isinstance(test, Mapping) and {"input", "output"} <= set(test) for test in tests)
    if not tests or not (texts or pairs):
        raise Unverifiable(
            f"the reference {str(reference)[:80]!r} holds no tests: give code with asserts, a "
            "list of it, or a list of {input, output}"
        )
    return tests, entry
