"""math-verify behind a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from xrouter_lg.verifiers.math import Math


@pytest.fixture(scope="module")
def judge() -> Iterator[Math]:
    with Math(timeout_s=1) as verifier:
        yield verifier


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("\\boxed{\\frac{3}{4}}", "0.75"),
        ("The answer is $0.75$", "\\frac{3}{4}"),
        ("$x \\in (1, 2]$", "(1,2]"),
        ("50%", "50\\%"),
        ("-1,234.0", "-1234"),
    ],
)
def test_equal_mathematics_is_right(judge: Math, answer: str, reference: str) -> None:
    assert judge(answer, reference).score == 1.0


def test_any_of_several_references_will_do(judge: Math) -> None:
    assert judge("7", ["6", "7"]).score == 1.0


def test_prose_without_mathematics_is_wrong(judge: Math) -> None:
    assert judge("I can't tell.", "7").score == 0.0


def test_a_reference_without_mathematics_gives_no_verdict(judge: Math) -> None:
    assert judge("7", "").score is None


def test_it_works_in_many_threads_at_once(judge: Math) -> None:
    with ThreadPoolExecutor(4) as pool:
        verdicts = list(pool.map(lambda n: judge(f"${n}$", str(n % 3)), range(12)))
    assert [verdict.score for verdict in verdicts] == [1.0] * 3 + [0.0] * 9


async def test_it_works_in_an_event_loop(judge: Math) -> None:
    assert (await asyncio.to_thread(judge, "$2$", "2")).score == 1.0


def test_an_answer_that_hangs_the_grader_gives_no_verdict_and_the_next_one_does(
    judge: Math,
) -> None:
    assert judge("$9^{9^{9^{9^{9}}}} - 9^{9^{9^{9^{8}}}}$", "3").score is None
    assert judge("$3$", "3").score == 1.0


def test_a_grader_whose_process_dies_gives_no_verdict_and_starts_anew(judge: Math) -> None:
    assert judge("1", "1").score == 1.0
    worker = judge._worker
    assert worker is not None
    worker.kill()
    worker.wait()
    assert judge("1", "1").score == 1.0


def test_a_grader_without_memory_gives_no_verdict() -> None:
    with Math(memory_mb=16) as verifier:
        assert verifier("1", "1").score is None


def test_closing_ends_the_process_and_a_later_call_starts_one() -> None:
    verifier = Math()
    verifier("1", "1")
    worker = verifier._worker
    verifier.close()
    assert worker is not None and worker.poll() is not None
    assert verifier("2", "2").score == 1.0
    verifier.close()
