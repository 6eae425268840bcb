"""Simple facts, and multiple choice between kinds of things."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from integrations.demo.recorded.task import Task, any_word, texts

_TEXTS = texts("facts")


def facts(rng: Random) -> Iterator[Task]:
    """Capitals, continents, and general knowledge."""
    questions = [
        *((f"What is the capital of {c}?", capital) for c, capital in _TEXTS["capitals"].items()),
        *((f"On which continent is {c}?", name) for c, name in _TEXTS["continents"].items()),
        *_TEXTS["others"].items(),
    ]
    rng.shuffle(questions)
    for question, right in questions:
        prompt = f"{question} Answer in a word or two."
        yield Task("facts", prompt, any_word(right.split("|")), max_tokens=16)


def multiple_choice(rng: Random) -> Iterator[Task]:
    """Four options, one of which is (or is not) of a kind."""
    kinds = {kind: words.split() for kind, words in _TEXTS["kinds"].items()}
    while True:
        kind, other = rng.sample(sorted(kinds), 2)
        negated = rng.random() < 0.5
        if negated:
            options = [*rng.sample(kinds[kind], 3), rng.choice(kinds[other])]
        else:
            others = rng.sample(sorted(set(kinds) - {kind}), 3)
            options = [*(rng.choice(kinds[name]) for name in others), rng.choice(kinds[kind])]
        right = options[3]
        if sum(option in kinds[kind] for option in options) != (3 if negated else 1):
            continue  # "orange" is a fruit, and was meant as something else
        rng.shuffle(options)
        listed = " ".join(f"{letter}) {o}" for letter, o in zip("ABCD", options, strict=True))
        article = "an" if kind[0] in "aeiou" else "a"
        ask = f"Which of these is {'not ' if negated else ''}{article} {kind}?"
        yield Task(
            "multiple_choice",
            f"{ask} {listed}. Answer with the letter only.",
            "ABCD"[options.index(right)],
            max_tokens=12,
        )
