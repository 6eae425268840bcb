"""Verifiers by name, their proof, and the command that asks for it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xrouter_lg.cli.verifiers import app
from xrouter_lg.verifiers import (
    Case,
    Suite,
    UnprovenVerifierError,
    Verdict,
    Verifier,
    VerifierConfigError,
    build,
    names,
    needs_arguments,
)

ALONE = [name for name in names() if not needs_arguments(name)]


@pytest.mark.parametrize("name", ALONE)
def test_every_built_in_verifier_proves_itself(name: str) -> None:
    with build(name) as verifier:
        assert verifier.check().problems == []


@pytest.mark.parametrize("name", ALONE)
def test_every_built_in_verifier_carries_a_good_and_a_bad_case(name: str) -> None:
    with build(name) as verifier:
        assert {case.good for case in verifier.default_cases()} == {True, False}


class Generous(Verifier):
    name = "generous"
    cases = (Case("right"), Case("wrong", good=False))

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        return Verdict(1.0)


class Broken(Generous):
    name = "broken"

    def verify(self, answer: str, reference: Any, meta: Mapping[str, Any]) -> Verdict:
        raise OSError("disk on fire")


def test_a_verifier_that_passes_everything_is_caught_by_its_bad_case() -> None:
    with pytest.raises(UnprovenVerifierError, match=r"known-bad answer 'wrong' scored 1\.0"):
        Generous().check().raise_if_bad()


def test_a_verifier_that_raises_gives_none_with_the_reason() -> None:
    verdict = Broken()("x")
    assert verdict == Verdict(None, "the verifier failed: OSError: disk on fire")


def test_none_on_a_known_case_is_no_proof() -> None:
    assert not Broken().check().ok


def test_own_cases_replace_the_built_in_ones() -> None:
    spec = {"verifier": "exact", "good": [{"answer": "a", "reference": "a"}]}
    assert build(spec).check().problems == [
        "no known-bad case: add `bad: [{answer: ..., reference: ...}]`"
    ]


@pytest.mark.parametrize("score", [-0.1, 1.1, float("nan")])
def test_a_score_outside_the_unit_interval_is_refused(score: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        Verdict(score)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"verifier": "maths"}, "no verifier is named 'maths'"),
        ({"verifier": "unit_tests", "timeout": 5}, "unit_tests: unknown timeout"),
        ({"verifier": "unit_tests", "timeout_s": 0}, "cpu_s is 0"),
        ({"verifier": "unit_tests", "isolation": "none"}, "'none'"),
        ({"verifier": "exact", "extract": "first"}, "extract is 'first'"),
        ({"verifier": "function"}, "missing 1 required"),
        ({"verifier": "exact", "good": ["a"]}, "case 'a' is not"),
        ({"verifier": "feedback", "scale": [5, 1]}, "two rising numbers"),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(VerifierConfigError, match=said.replace("[", "\\[")):
        build(spec)


def test_the_first_fitting_rule_judges_a_prompt() -> None:
    suite = Suite.from_specs(
        [{"verifier": "regex", "where": "zeroeval/crux*"}, {"verifier": "exact"}]
    )
    chosen = [suite.verifier_for("zeroeval", task) for task in ("cruxeval-o", "gsm8k")]
    assert [verifier and verifier.name for verifier in chosen] == ["regex", "exact"]


def test_a_prompt_that_no_rule_fits_has_no_verifier() -> None:
    suite = Suite.from_specs([{"verifier": "exact", "where": ["a/*", "b/*"]}])
    assert suite.verifier_for("c", "x") is None


def write(folder: Path, text: str) -> str:
    path = folder / "spec.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- {verifier: exact, where: 5}", "entry 1: `where` is 5; it must be a pattern"),
        ("- {verifier: exact, where: [a, 5]}", r"`where` is \['a', 5\]; .* or a list of them"),
        ("- {verifier: exact, where: }", "`where` is None"),
        ("- {verifier: exact, good: 3}", "exact: `good` is 3; it must be a list of cases"),
        ("- {verifier: exact, bad: {answer: x}}", "exact: `bad` is .*must be a list of cases"),
        ("- {verifier: exact, good: [{answer: a, meta: 3}]}", "`meta` is 3; it must be a mapping"),
        ("- {verifier: exact, 5: a, b: c}", "exact: unknown 5, b; it takes"),
        ("- {verifier: [exact]}", r"`verifier` is \['exact'\]; it must be a name: exact"),
        ("- {}", "`verifier` is None; it must be a name"),
        ("", r"spec\.yaml: expected a list of verifiers .*, got None"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_entry(
    text: str, said: str, tmp_path: Path
) -> None:
    spec = write(tmp_path, text)
    with pytest.raises(VerifierConfigError, match=said) as refused:
        Suite.from_yaml(spec)
    assert spec in str(refused.value)


def test_the_command_proves_a_spec(tmp_path: Path) -> None:
    spec = write(tmp_path, "verifiers:\n- {verifier: exact, strip: false}\n- feedback\n")
    result = CliRunner().invoke(app, ["check", spec, "--json"])
    assert [row["ok"] for row in json.loads(result.stdout)] == [True, True]


def test_the_command_fails_for_an_unproven_verifier(tmp_path: Path) -> None:
    spec = write(tmp_path, "- verifier: exact\n  good: [{answer: a, reference: b}]\n")
    result = CliRunner().invoke(app, ["check", spec])
    assert result.exit_code == 1


def test_the_command_names_file_and_entry_of_a_wrong_spec(tmp_path: Path) -> None:
    spec = write(tmp_path, "- exact\n- {verifier: nope}\n")
    result = CliRunner().invoke(app, ["check", spec])
    assert result.exit_code == 2
    assert f"{spec}: entry 2: no verifier is named 'nope'" in result.stderr
