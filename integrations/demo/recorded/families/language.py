"""Courtesies, sentiment of a review, forms and opposites of words, days and months."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from integrations.demo.recorded.task import Task, any_word, texts

_TEXTS = texts("language")


def courtesy(rng: Random) -> Iterator[Task]:
    """A sentence to a customer; it has to name what it was asked to name."""
    courtesies = list(_TEXTS["courtesies"].items())
    words_of = {"name": _TEXTS["names"], "x": _TEXTS["goods"], "day": _TEXTS["days"]}
    while True:
        ask, needed = rng.choice(courtesies)
        words = {slot: rng.choice(choices) for slot, choices in words_of.items()}
        parts = "".join(f"(?=.*\\b(?:{part.format(**words)}))" for part in needed)
        prompt = f"Write one short sentence to {ask.format(**words)}."
        yield Task("courtesy", prompt, f"(?is)\\A{parts}", max_tokens=36)


def sentiment(rng: Random) -> Iterator[Task]:
    """Plain reviews, and ones that have to be understood."""
    while True:
        mood = rng.choice(("positive", "negative"))
        forms = _TEXTS["plain" if rng.random() < 0.5 else "subtle"][mood]
        text = rng.choice(forms).format(x=rng.choice(_TEXTS["things"]))
        prompt = f"Is this review positive or negative? '{text}.' Answer with one word."
        yield Task("sentiment", prompt, mood, max_tokens=12)


def word_forms(rng: Random) -> Iterator[Task]:
    """Opposites, plurals, past tenses and comparatives, regular and irregular."""
    asked = (
        ("the opposite of", "opposites"),
        ("the plural of", "plurals"),
        ("the past tense of", "pasts"),
        ("the comparative of", "comparatives"),
    )
    questions = [(what, *pair) for what, name in asked for pair in _TEXTS[name].items()]
    rng.shuffle(questions)
    for what, word, right in questions:
        prompt = f"What is {what} the word '{word}'? Answer with one word."
        yield Task("word_forms", prompt, any_word(right.split("|")), max_tokens=16)


def calendar(rng: Random) -> Iterator[Task]:
    """A day or a month some steps before or after another."""
    while True:
        names, unit = rng.choice(((_TEXTS["days"], "day"), (_TEXTS["months"], "month")))
        start, steps = rng.randrange(len(names)), rng.choice((1, 1, 2, 3, 4, 5, 6, 8, 9, 10))
        sign, side = rng.choice(((1, "after"), (-1, "before")))
        right = names[(start + sign * steps) % len(names)]
        plural = "" if steps == 1 else "s"
        prompt = (
            f"Which {unit} is {steps} {unit}{plural} {side} {names[start]}? Answer with one word."
        )
        yield Task("calendar", prompt, any_word([right]), max_tokens=12)
