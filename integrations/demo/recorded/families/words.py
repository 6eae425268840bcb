"""Work on letters and lists."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from integrations.demo.recorded.task import Task, texts


def string_work(rng: Random) -> Iterator[Task]:
    """Upper case, first and last letters, counting, reversing."""
    words = texts("words")["words"]
    while True:
        word = rng.choice(words)
        kind = rng.choice(("upper", "first", "last", "count", "length", "reverse"))
        if kind == "upper":
            ask, right = f"Write the word '{word}' in capital letters.", word.upper()
        elif kind == "first":
            ask, right = f"What is the first letter of the word '{word}'?", word[0]
        elif kind == "last":
            ask, right = f"What is the last letter of the word '{word}'?", word[-1]
        elif kind == "count":
            letter = rng.choice(word)
            ask = f"How many times is the letter '{letter}' in the word '{word}'?"
            right = str(word.count(letter))
        elif kind == "length":
            ask, right = f"How many letters does the word '{word}' have?", str(len(word))
        else:
            ask, right = f"Write the word '{word}' backwards.", word[::-1]
        # Upper case is judged letter by letter; for the others a capital is no mistake.
        accepted = right if kind == "upper" else f"(?i){right}"
        prompt = f"{ask} Reply with the answer only."
        yield Task("string_work", prompt, accepted, max_tokens=16)


def sorting(rng: Random) -> Iterator[Task]:
    """Three to seven numbers, rising or falling."""
    while True:
        count = rng.choice((3, 3, 4, 5, 6, 7))
        numbers = rng.sample(range(1, rng.choice((10, 30, 100))), count)
        falling = rng.random() < 0.4
        order = "largest to smallest" if falling else "smallest to largest"
        listed = ", ".join(map(str, numbers))
        right = ", ".join(map(str, sorted(numbers, reverse=falling)))
        prompt = f"Sort these numbers from {order}: {listed}. Give only the sorted list."
        yield Task("sorting", prompt, right, max_tokens=28)
