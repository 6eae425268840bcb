"""Exact, normalised, multiple choice, regex, JSON schema, feedback, user functions."""

from __future__ import annotations

import json
import time
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xrouter_lg.verifiers import Verdict, Verifier, VerifierConfigError, build
from xrouter_lg.verifiers.base import extract_part, last_boxed, last_json_object
from xrouter_lg.verifiers.text import chosen_letter, normalise

printable = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("C", "C"),
        ("(b)", "B"),
        ("**D**", "D"),
        ("B. Paris", "B"),
        ("The answer is (C).", "C"),
        ("Answer: \\boxed{D}", "D"),
        ("so $\\boxed{\\text{B}}$", "B"),
        ('{"reasoning": "A or B", "answer": "B"}', "B"),
        ("A is wrong, B is wrong.\nFinal answer: C", "C"),
        ("The answer is A? No, the answer is D", "D"),
        ("I think the correct option is E because of X", "E"),
        ("The answer is a bit unclear", None),
        ("Either A or C", None),
        ("", None),
    ],
)
def test_the_chosen_letter_is_read_where_models_put_it(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer) == letter


def test_a_letter_beyond_the_choices_is_no_choice() -> None:
    assert chosen_letter("The answer is H", ["x", "y"]) is None


def test_a_reference_that_is_no_option_gives_no_verdict() -> None:
    assert build("multiple_choice")("A", "Paris").score is None


@given(printable)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@given(printable)
def test_every_unicode_form_of_a_text_normalises_alike(text: str) -> None:
    forms = {normalise(unicodedata.normalize(form, text)) for form in ("NFC", "NFD", "NFKD")}
    assert forms == {normalise(text)}


@given(printable.filter(str.strip))
def test_a_text_matches_itself(text: str) -> None:
    assert build("exact")(text, text).score == 1.0
    assert build("normalised")(text, text).score == 1.0


def test_containment_wants_whole_words() -> None:
    verifier = build({"verifier": "normalised", "contains": True})
    assert verifier("It is in Paris, France.", "Paris").score == 1.0
    assert verifier("Comparison", "Paris").score == 0.0


def test_a_missing_reference_gives_no_verdict() -> None:
    verdict = build("exact")("x", None)
    assert verdict == Verdict(None, "there is no reference to compare with")


@given(st.dictionaries(st.text(max_size=5), st.integers() | printable, max_size=4), printable)
def test_a_json_object_is_found_in_any_prose(value: dict[str, Any], prose: str) -> None:
    prose = prose.replace("{", "").replace("}", "").replace("\\", "")
    text = f"{prose}```json\n{json.dumps(value)}\n```{prose}"
    assert last_json_object(text) == value


@given(printable)
def test_extraction_never_raises(text: str) -> None:
    for rule in ("all", "code", "last_line", "boxed", "json:a", "regex:(a+)b"):
        extract_part(text, rule)


def test_boxed_content_may_hold_braces() -> None:
    assert last_boxed(r"\boxed{1} and \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"


def test_latex_in_json_is_read_although_its_backslashes_are_single() -> None:
    answer = '{"reasoning": "by \\( x \\)", "answer": "\\pi"}'
    assert extract_part(answer, "json:answer") == r"\pi"


def test_a_field_survives_a_stray_quote_elsewhere() -> None:
    answer = '{"reasoning": "f("a") is b", "answer": "42"}'
    assert extract_part(answer, "json:answer") == "42"


def test_an_answer_without_the_asked_part_is_wrong_not_unknown() -> None:
    verdict = build({"verifier": "exact", "extract": "boxed"})("42", "42")
    assert verdict.score == 0.0


def test_a_pattern_that_would_run_for_ever_gives_no_verdict() -> None:
    verifier = build({"verifier": "regex", "pattern": r"(a|aa)+$", "timeout_s": 0.2})
    started = time.monotonic()
    assert verifier("a" * 60 + "b").score is None
    assert time.monotonic() - started < 5


def test_a_broken_pattern_is_refused_at_once() -> None:
    with pytest.raises(VerifierConfigError, match="regex: pattern"):
        build({"verifier": "regex", "pattern": "("})


def test_a_group_can_be_compared_with_the_reference() -> None:
    verifier = build({"verifier": "regex", "pattern": r"#### (.+)", "group_is_reference": True})
    assert verifier("so\n#### 41\n#### 42", "42").score == 1.0
    assert verifier("so\n#### 42\n#### 41", "42").score == 0.0


def test_a_remote_reference_in_a_schema_is_never_fetched() -> None:
    verifier = build({"verifier": "json_schema", "schema": {"$ref": "http://127.0.0.1:9/s.json"}})
    assert verifier("{}").score is None


@pytest.mark.parametrize("answer", ["NaN", "[" * 5000, '{"x": 1} and more', ""])
def test_what_is_no_json_is_wrong(answer: str) -> None:
    assert build({"verifier": "json_schema", "schema": {}})(answer).score == 0.0


def test_a_schema_violation_says_where() -> None:
    schema = {"properties": {"a": {"items": {"type": "integer"}}}}
    verdict = build({"verifier": "json_schema", "schema": schema})('{"a": [1, "x"]}')
    assert verdict.reason.startswith("at a/1:")


def test_feedback_is_mapped_from_its_scale() -> None:
    verifier = build({"verifier": "feedback", "keys": "stars", "scale": [1, 5]})
    meta = {"feedback": [{"key": "stars", "score": 4}, {"key": "other", "score": 1}]}
    assert verifier("", meta=meta).score == 0.75


def test_an_exact_value_wins_over_a_rounded_score() -> None:
    meta = {"feedback": [{"key": "user_score", "score": 0.3333, "value": 1 / 3}]}
    assert build("feedback")("", meta=meta).score == 1 / 3


def test_silence_is_no_verdict() -> None:
    assert build("feedback")("", meta={"feedback": []}).score is None


def test_feedback_outside_its_scale_is_no_verdict() -> None:
    meta = {"feedback": [{"key": "user_score", "score": 7}]}
    assert build("feedback")("", meta=meta).score is None


def half_right(answer: str, reference: Any) -> float:
    return 0.5 if answer == reference else 0.0


def explode(answer: str) -> float:
    raise RuntimeError("no")


def too_much(answer: str) -> float:
    return 2.0


def with_limit(answer: str, limit: int) -> bool:
    return len(answer) <= limit


def function(name: str, **arguments: Any) -> Verifier:
    return build({"verifier": "function", "path": f"{__name__}:{name}", **arguments})


def test_a_function_gets_the_parameters_it_names() -> None:
    assert function("half_right")("a", "a").score == 0.5


def test_a_function_gets_the_specs_arguments() -> None:
    assert function("with_limit", arguments={"limit": 2})("abc").score == 0.0


def test_a_function_that_wants_more_is_refused_at_once() -> None:
    with pytest.raises(VerifierConfigError, match="missing ones \\['limit'\\]"):
        function("with_limit")


@pytest.mark.parametrize("name", ["explode", "too_much"])
def test_a_function_that_fails_gives_no_verdict(name: str) -> None:
    assert function(name)("a").score is None


def test_a_function_without_cases_has_not_proved_itself() -> None:
    problems = function("half_right").check().problems
    assert len(problems) == 2 and "no known-good case" in problems[0]


def test_a_path_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(VerifierConfigError, match="leads nowhere"):
        build({"verifier": "function", "path": "json:nothing"})
