"""Questions with many right answers: some sentences, things of a kind, explanations."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from integrations.demo.recorded.task import Task, texts

_TEXTS = texts("open_ended")


_ASKS = ("Tell me about {x} in a sentence or two.", "Describe {x} in a sentence or two.")


def writing(rng: Random) -> Iterator[Task]:
    """A sentence or two about something everyone knows, to their end."""
    asked = [(f.format(x=topic), words) for topic, words in _TEXTS["topics"].items() for f in _ASKS]
    rng.shuffle(asked)
    for prompt, words in asked:
        pattern = rf"(?is)\A(?=.*\b(?:{words})).*[.!?][\"')]*\s*\Z"
        yield Task("writing", prompt, pattern, max_tokens=64)


def use_word(rng: Random) -> Iterator[Task]:
    """A sentence in which one or two given words stand."""
    words = _TEXTS["words"]
    while True:
        if rng.random() < 0.6:
            (first,) = wanted = rng.sample(words, 1)
            prompt = f"Write a sentence with the word '{first}'."
        else:
            first, second = wanted = rng.sample(words, 2)
            prompt = f"Write a sentence with the words '{first}' and '{second}'."
        parts = "".join(rf"(?=.*\b{word})" for word in wanted)
        yield Task("use_word", prompt, rf"(?is)\A{parts}", max_tokens=32)


_COUNTS = {"two": 2, "three": 3, "four": 4}


def list_things(rng: Random) -> Iterator[Task]:
    """Two to four things of a kind; the pattern counts those it knows."""
    while True:
        kind, (word, count) = (
            rng.choice(sorted(_TEXTS["kinds"])),
            rng.choice(sorted(_COUNTS.items())),
        )
        verb = rng.choice(("Name", "List"))
        known = "|".join(_TEXTS["kinds"][kind].split())
        pattern = rf"(?is)(?:\b(?:{known}).*?){{{count}}}"
        yield Task("list_things", f"{verb} {word} {kind}.", pattern, max_tokens=32)


def explain(rng: Random) -> Iterator[Task]:
    """What a thing is, is for, or what somebody does: a word that no explanation can do without."""
    questions = list(_TEXTS["explained"].items())
    rng.shuffle(questions)
    for question, needed in questions:
        yield Task("explain", question, rf"(?i)\b(?:{needed})", max_tokens=36)
