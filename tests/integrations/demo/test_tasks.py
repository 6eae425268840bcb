"""The generated tasks: enough of them, distinct, short, judged by verifiers that work."""

from __future__ import annotations

from collections import Counter

import pytest

from integrations.demo.recorded.families import FAMILIES
from integrations.demo.recorded.generate import tasks
from integrations.demo.recorded.scores import Scorer
from integrations.demo.recorded.task import Task, any_word
from xrouter_lg.outcomes import prompt_key

LITERAL = ("sums", "number_theory", "units", "word_problems", "sorting", "code_output")
"""Families whose reference is itself a right answer."""


@pytest.fixture(scope="module")
def made() -> list[Task]:
    return tasks()


def test_there_are_enough_tasks_of_enough_kinds(made: list[Task]) -> None:
    counts = Counter(task.family for task in made)
    assert len(made) >= 1200 and len(counts) >= 10
    assert counts == {family: count for family, (_, count) in FAMILIES.items()}


def test_no_task_is_there_twice(made: list[Task]) -> None:
    assert len({prompt_key(task.prompt) for task in made}) == len(made)
    assert len({task.prompt_id for task in made}) == len(made)


def test_questions_and_answers_are_short(made: list[Task]) -> None:
    # A token of English is rarely under three characters.
    assert max(len(task.prompt) for task in made) <= 240
    assert {8 <= task.max_tokens <= 128 for task in made} == {True}


def test_a_seed_gives_the_same_tasks_and_another_seed_others(made: list[Task]) -> None:
    assert tasks() == made
    shared = {t.prompt for t in tasks(seed=1)} & {t.prompt for t in made}
    assert len(shared) < 0.7 * len(made)


def test_any_beginning_is_balanced(made: list[Task]) -> None:
    for length in (100, 400, 900):
        counts = Counter(task.family for task in made[:length])
        for family, (_, count) in FAMILIES.items():
            assert abs(counts[family] - length * count / len(made)) <= 1.5


def test_a_family_that_runs_dry_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    generate, _ = FAMILIES["word_forms"]
    monkeypatch.setitem(FAMILIES, "word_forms", (generate, 10_000))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'word_forms' has \d+ distinct tasks, 10000"):
        tasks()


def test_a_reference_that_is_an_answer_is_judged_right_and_a_neighbours_wrong(
    made: list[Task],
) -> None:
    asked, wanted = [], []
    for family in LITERAL:
        some = [task for task in made if task.family == family][:12]
        for task, other in zip(some, [*some[1:], some[0]], strict=True):
            asked.append((family, task.reference, task.reference))
            wanted.append(1.0)
            if other.reference != task.reference:
                asked.append((family, other.reference, task.reference))
                wanted.append(0.0)
    with Scorer() as judge:
        assert [verdict.score for verdict in judge.verdicts(asked)] == wanted


def test_a_json_reference_is_judged_right_in_a_fence_and_wrong_without_a_field(
    made: list[Task],
) -> None:
    task = next(task for task in made if task.family == "json_extraction")
    asked = [
        ("json_extraction", f"```json\n{task.reference}\n```", task.reference),
        ("json_extraction", "{}", task.reference),
    ]
    with Scorer() as judge:
        assert [verdict.score for verdict in judge.verdicts(asked)] == [1.0, 0.0]


def test_tests_of_functions_call_the_function_that_is_asked_for(made: list[Task]) -> None:
    for task in made:
        if task.family == "code_functions":
            compile(task.reference, task.prompt_id, "exec")
            name = task.prompt.partition("function ")[2].partition("(")[0]
            assert task.reference.count(f"assert {name}(") >= 2


def test_a_word_is_found_whole_and_in_any_case() -> None:
    import re

    pattern = any_word(["cold", "a.b"])
    assert re.search(pattern, "It is COLD.") and re.search(pattern, "a.b")
    assert not re.search(pattern, "colder") and not re.search(pattern, "axb")
