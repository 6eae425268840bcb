"""The families of tasks: one generator each, of more tasks than are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random

from data.demo.families import arithmetic, code, facts, language, structured, words
from data.demo.task import Task

FAMILIES: Mapping[str, Callable[[Random], Iterator[Task]]] = {
    "facts": facts.facts,
    "multiple_choice": facts.multiple_choice,
    "courtesy": language.courtesy,
    "sentiment": language.sentiment,
    "word_forms": language.word_forms,
    "calendar": language.calendar,
    "sums": arithmetic.sums,
    "number_theory": arithmetic.number_theory,
    "word_problems": arithmetic.word_problems,
    "units": arithmetic.units,
    "string_work": words.string_work,
    "sorting": words.sorting,
    "json_extraction": structured.json_extraction,
    "code_output": code.code_output,
    "code_functions": code.code_functions,
}
"""Every generator yields tasks in random order, perhaps with repetitions, and may end."""
