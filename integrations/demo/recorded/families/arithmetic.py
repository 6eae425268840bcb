"""Numbers: sums, number theory, problems in words, units."""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random

from integrations.demo.recorded.task import Task

_NUMBER = "Answer with the number only."


def sums(rng: Random) -> Iterator[Task]:
    """Two terms of one to four digits, plus or minus."""
    while True:
        digits = rng.choice((1, 2, 2, 3, 3, 4))
        a, b = (rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
        if rng.random() < 0.35:
            a, b = max(a, b), min(a, b)
            prompt, right = f"What is {a} - {b}? {_NUMBER}", a - b
        else:
            prompt, right = f"What is {a} + {b}? {_NUMBER}", a + b
        yield Task("sums", prompt, str(right), max_tokens=16)


def number_theory(rng: Random) -> Iterator[Task]:
    """Greatest common divisors, remainders, products."""
    while True:
        kind = rng.choice(("gcd", "remainder", "product"))
        if kind == "gcd":
            base = rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 12, 15))
            a, b = (base * k for k in rng.sample(range(2, 14), 2))
            question = f"What is the greatest common divisor of {a} and {b}?"
            right = math.gcd(a, b)
        elif kind == "remainder":
            a, b = rng.randrange(20, 400), rng.randrange(3, 13)
            question, right = f"What is the remainder when {a} is divided by {b}?", a % b
        else:
            a, b = rng.randrange(3, 100), rng.randrange(3, 30)
            question, right = f"What is {a} times {b}?", a * b
        yield Task("number_theory", f"{question} {_NUMBER}", str(right), max_tokens=10)


_NAMES = ("Tom", "Anna", "Ravi", "Mei", "Omar", "Lena", "Jack", "Sofia", "Ben", "Nora")
_ITEMS = ("apples", "pencils", "stickers", "cookies", "marbles", "cards", "shells", "stamps")


def _bags(rng: Random, name: str, item: str) -> tuple[str, int]:
    bags, each = rng.randrange(2, 9), rng.randrange(3, 16)
    gone = rng.randrange(2, min(30, bags * each - 1))
    text = f"{name} has {bags} bags of {each} {item} and gives {gone} {item} away. "
    return f"{text}How many {item} are left?", bags * each - gone


def _shop(rng: Random, name: str, item: str) -> tuple[str, int]:
    price, count = rng.randrange(2, 10), rng.randrange(3, 9)
    paid = price * count + rng.randrange(3, 30)
    text = f"{name} buys {count} boxes of {item} at {price} dollars each and pays with {paid} "
    return f"{text}dollars. How many dollars does {name} get back?", paid - price * count


def _share(rng: Random, name: str, item: str) -> tuple[str, int]:
    friends, each = rng.randrange(2, 8), rng.randrange(3, 12)
    more = rng.randrange(2, friends * each - 1)
    text = f"{name} had {friends * each - more} {item} and found {more} more. {name} shares all of "
    return f"{text}them equally among {friends} friends. How many {item} does each get?", each


def _trip(rng: Random, name: str, item: str) -> tuple[str, int]:
    speed, hours, more = rng.randrange(4, 19) * 5, rng.randrange(2, 5), rng.randrange(3, 8)
    text = f"A train goes {speed * hours} km in {hours} hours. At the same speed, how many km "
    return f"{text}does it go in {more} hours?", speed * more


def _sale(rng: Random, name: str, item: str) -> tuple[str, int]:
    price, off, count = rng.randrange(2, 16) * 20, rng.choice((10, 20, 25, 50)), rng.randrange(2, 5)
    text = f"A chair costs {price} dollars and is {off}% off. How many dollars do {count} chairs "
    return f"{text}cost now?", price * (100 - off) // 100 * count


def _double(rng: Random, name: str, item: str) -> tuple[str, int]:
    first, extra = rng.randrange(4, 30), rng.randrange(2, 12)
    text = f"{name} has {first} {item}. A friend has twice as many, and a third child has {extra} "
    return f"{text}more than the friend. How many {item} do the three have?", 5 * first + extra


def word_problems(rng: Random) -> Iterator[Task]:
    """Two to four steps, told as a story."""
    while True:
        form = rng.choice((_bags, _shop, _share, _trip, _sale, _double))
        question, right = form(rng, rng.choice(_NAMES), rng.choice(_ITEMS))
        prompt = f"{question} Reply only with an equation such as 3 * 4 - 5 = 7."
        yield Task("word_problems", prompt, str(right), max_tokens=32)


_UNITS = (
    ("km", "m", 1000), ("kg", "g", 1000), ("m", "cm", 100), ("hours", "minutes", 60),
    ("minutes", "seconds", 60), ("days", "hours", 24), ("weeks", "days", 7),
    ("litres", "millilitres", 1000), ("feet", "inches", 12), ("dozen", "pieces", 12),
    ("yards", "feet", 3), ("pounds", "ounces", 16), ("tonnes", "kg", 1000), ("cm", "mm", 10),
)  # fmt: skip


def units(rng: Random) -> Iterator[Task]:
    """Conversions down and up, whole numbers and halves; degrees Celsius to Fahrenheit."""
    while True:
        if rng.random() < 0.12:
            celsius = rng.randrange(0, 21) * 5
            right = f"{celsius * 9 // 5 + 32}"
            prompt = f"Convert {celsius} degrees Celsius to degrees Fahrenheit. {_NUMBER}"
        else:
            large, small, factor = rng.choice(_UNITS)
            count = rng.randrange(2, 31)
            if rng.random() < 0.3:
                prompt = f"Convert {count * factor} {small} to {large}. {_NUMBER}"
                right = str(count)
            elif rng.random() < 0.25 and factor % 2 == 0:
                prompt = f"Convert {count}.5 {large} to {small}. {_NUMBER}"
                right = str(count * factor + factor // 2)
            else:
                prompt = f"Convert {count} {large} to {small}. {_NUMBER}"
                right = str(count * factor)
        yield Task("units", prompt, right, max_tokens=12)
