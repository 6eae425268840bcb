"""Typical mistakes are made, and each message names the value, the place and the fix."""

from __future__ import annotations

import pytest

from tests.support.mistakes import MISTAKES, Mistake, drawn, message_of, table


@pytest.mark.parametrize("one", MISTAKES, ids=lambda one: one.title)
def test_a_message_names_the_value_the_place_and_the_fix(one: Mistake) -> None:
    told = message_of(one)
    lacking = [name for name in ("value", "place", "fix") if getattr(one, name) not in told]
    assert lacking == [], told


def test_there_are_at_least_forty_and_none_twice() -> None:
    titles = [(one.area, one.title) for one in MISTAKES]
    assert len(set(titles)) == len(titles) >= 40


def test_the_table_in_the_docs_is_what_is_said() -> None:
    assert drawn() == table(), "run: python -m tests.support.mistakes"
