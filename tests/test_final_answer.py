"""The final answer that a response comes down to."""

from __future__ import annotations

import pytest

from xrouter_lg.final_answer import final_answer


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ('{"reasoning": "so", "answer": "1,200"}', "1200"),
        ('{"answer": "3"}\n{"answer": 4.0}', "4"),
        ('{"reasoning": "x", "answer": "" }', "''"),
        (r"thus \boxed{\dfrac{1}{2}}.", r"\frac{1}{2}"),
        ("it is 12 or rather 13", "13"),
        ("I can't say", None),
        (None, None),
    ],
)
def test_the_final_answer_is_found(response: str | None, answer: str | None) -> None:
    assert final_answer(response) == answer
