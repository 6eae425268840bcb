"""Code answers, honest and hostile, against tests in real sandboxes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg.verifiers import Verdict, build
from xrouter_lg.verifiers.sandbox.run import best_isolation
from xrouter_lg.verifiers.sandbox.wire import NotPlainError, pack, unpack

TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
RIGHT = "def add(a, b):\n    return a + b\n"


def judge(answer: str, tests: Any, **arguments: Any) -> Verdict:
    spec = {"verifier": "unit_tests", "isolation": str(best_isolation()), "timeout_s": 2}
    return build({**spec, **arguments})(answer, tests)


def test_code_that_works_scores_one() -> None:
    assert judge(f"Here:\n```python\n{RIGHT}```\nDone.", TESTS).score == 1.0


def test_code_that_fails_a_test_scores_zero_and_says_how() -> None:
    verdict = judge("def add(a, b):\n    return 3", TESTS)
    assert (verdict.score, verdict.reason) == (0.0, "AssertionError: ")


def test_partial_credit_is_the_share_of_tests_passed() -> None:
    verdict = judge("def add(a, b): return 3", TESTS.splitlines(), partial_credit=True)
    assert verdict.score == 0.5


@pytest.mark.parametrize(
    "attack",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit(0)",
        "while True: pass",
        "import os\nwhile True: os.fork()",
        "print('x' * 10_000_000)",
        "x = 'x' * (1 << 32)",
        "def add(a, b): raise SystemExit(0)",
        "def add(a, b): __import__('os')._exit(0)",
        "class Any:\n    def __eq__(self, other): return True\ndef add(a, b): return Any()",
        "class Always(int):\n    def __eq__(self, other): return True\n"
        "def add(a, b): return Always(7)",
        "import builtins\nbuiltins.AssertionError = type('Quiet', (Exception,), {})\n"
        "def add(a, b): return 0",
        "import sys, gc\nfor o in gc.get_objects():\n"
        "    if isinstance(o, dict) and 'failures' in o: o['failures'] = []\n"
        "def add(a, b): return 0",
        "import os\nfor fd in range(3, 60):\n    try:\n"
        '        os.write(fd, b\'{"tests": 2, "failed": 0, "failures": []}\\n\')\n'
        "    except OSError: pass\ndef add(a, b): return 0",
        "import signal, os\nos.kill(os.getppid(), signal.SIGKILL)\ndef add(a, b): return 0",
        "import socket; socket.socket()\n" + RIGHT,
        "def add(a, b): return add",
        "def add(a, b):\n    x = []\n    x.append(x)\n    return x",
        "not python at all",
        "",
    ],
)
def test_an_attack_scores_zero(attack: str) -> None:
    assert judge(attack, TESTS, timeout_s=1).score == 0.0


def test_a_built_in_that_the_answer_redefines_stays_the_tests_own() -> None:
    attack = "def all(x): return True\ndef add(a, b): return 0"
    assert judge(attack, "assert all([add(1, 2) == 3])").score == 0.0


def test_the_answer_never_sees_the_tests() -> None:
    spy = "import os\ndef add(a, b): return sorted(os.listdir('.'))"
    verdict = judge(spy, "assert 'tests.json' in add(1, 2)")
    assert verdict.score == 0.0


def test_keys_in_the_environment_stay_out_of_the_answers_reach(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PLANTED_KEY", "sk-planted")
    spy = "import os\ndef add(a, b): return dict(os.environ)"
    assert judge(spy, "assert 'PLANTED_KEY' in add(1, 2)").score == 0.0


def test_in_place_changes_are_seen_by_the_tests() -> None:
    answer = "def order(items): items.sort()"
    assert judge(answer, "x = [3, 1]\norder(x)\nassert x == [1, 3]").score == 1.0


def test_an_expected_exception_crosses_with_its_type() -> None:
    answer = "class Mine(ValueError): pass\ndef f(x): raise Mine(x)"
    tests = "try:\n    f(1)\n    assert False\nexcept ValueError:\n    pass"
    assert judge(answer, tests).score == 1.0


def test_tests_may_use_the_answers_imports() -> None:
    answer = "import math\ndef root(x): return math.sqrt(x)"
    assert judge(answer, "assert math.isclose(root(4), 2)").score == 1.0


def test_a_check_function_is_called_with_the_entry_point() -> None:
    tests = {"tests": "def check(f):\n    assert f(1, 2) == 3", "entry_point": "add"}
    assert judge(RIGHT, json.dumps(tests)).score == 1.0
    assert judge("def sub(a, b): return 3", tests).score == 0.0


def test_programs_are_judged_by_what_they_print() -> None:
    tests = [{"input": "1 2\n", "output": "3"}, {"input": "5 5\n", "output": "10\n"}]
    answer = "a, b = map(int, input().split())\nif __name__ == '__main__':\n    print(a + b)"
    assert judge(answer, tests).score == 1.0
    assert judge("print(3)", tests).score == 0.0


@pytest.mark.parametrize("tests", ["assert add(1, 2", None, [], [1], {"tests": ""}])
def test_broken_tests_give_no_verdict(tests: Any) -> None:
    assert judge(RIGHT, tests).score is None


def test_tests_of_a_class_give_no_verdict_and_name_the_way_out() -> None:
    verdict = judge("class Stack: pass", "s = Stack()\nassert s")
    assert verdict.score is None and "process: same" in verdict.reason


def test_tests_of_a_class_run_in_one_process_when_asked() -> None:
    answer = "class Stack:\n    def __init__(self): self.items = []"
    tests = "assert Stack().items == []"
    assert judge(answer, tests, process="same").score == 1.0
    assert judge("import sys; sys.exit(0)", tests, process="same").score == 0.0


def test_a_machine_without_the_asked_isolation_gives_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from xrouter_lg.verifiers.sandbox.run import Isolation

    monkeypatch.setattr("xrouter_lg.verifiers.unit_tests.best_isolation", lambda: Isolation.WEAK)
    verdict = build({"verifier": "unit_tests", "isolation": "full"})(RIGHT, TESTS)
    assert verdict.score is None and "isolation: weak" in verdict.reason


def test_a_sandbox_that_fails_gives_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    level = best_isolation()
    monkeypatch.setattr("xrouter_lg.verifiers.sandbox.run._CHILD", Path("/nowhere/child.py"))
    verdict = build({"verifier": "unit_tests", "isolation": str(level)})(RIGHT, TESTS)
    assert verdict.score is None


def test_judging_leaves_no_descriptor_open() -> None:
    judge(RIGHT, TESTS)
    before = len(os.listdir("/dev/fd"))
    judge(RIGHT, TESTS)
    judge("import sys; sys.exit(0)", TESTS)
    assert len(os.listdir("/dev/fd")) == before


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
keys = st.integers() | st.text(max_size=4) | st.tuples(st.integers(), st.booleans())
plain = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
        | st.sets(keys, max_size=3)
    ),
    max_leaves=12,
)


@given(plain)
def test_plain_data_crosses_unchanged(value: Any) -> None:
    crossed = unpack(json.loads(json.dumps(pack(value))))
    assert (crossed, type(crossed)) == (value, type(value))


def test_numbers_of_any_size_cross() -> None:
    assert unpack(json.loads(json.dumps(pack(-(10**6000))))) == -(10**6000)


@pytest.mark.parametrize("value", [object(), len, print, type, os])
def test_what_is_not_plain_does_not_cross(value: Any) -> None:
    with pytest.raises(NotPlainError):
        pack([value])
