"""The families of tasks: one generator each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random

from integrations.demo.recorded.families import (
    arithmetic,
    code,
    facts,
    language,
    open_ended,
    structured,
    words,
)
from integrations.demo.recorded.task import Task

FAMILIES: Mapping[str, tuple[Callable[[Random], Iterator[Task]], int]] = {
    "writing": (open_ended.writing, 110),
    "use_word": (open_ended.use_word, 100),
    "list_things": (open_ended.list_things, 100),
    "explain": (open_ended.explain, 86),
    "courtesy": (language.courtesy, 78),
    "sentiment": (language.sentiment, 78),
    "facts": (facts.facts, 78),
    "word_forms": (language.word_forms, 78),
    "multiple_choice": (facts.multiple_choice, 50),
    "calendar": (language.calendar, 30),
    "sums": (arithmetic.sums, 78),
    "number_theory": (arithmetic.number_theory, 50),
    "word_problems": (arithmetic.word_problems, 60),
    "units": (arithmetic.units, 50),
    "string_work": (words.string_work, 50),
    "sorting": (words.sorting, 60),
    "json_extraction": (structured.json_extraction, 78),
    "code_output": (code.code_output, 60),
    "code_functions": (code.code_functions, 78),
}
"""A family's generator, and how many of its tasks are kept: a mix like that of a support desk, with
more easy prose than puzzles. A generator yields tasks in random order, perhaps with repetitions,
and may end."""
