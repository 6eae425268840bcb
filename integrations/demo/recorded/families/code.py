"""Python: what a line prints, and small functions with unit tests."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from integrations.demo.recorded.task import Task

_TEXTS = ("stone", "river", "window", "paper", "garden", "signal", "market", "planet", "bridge")


def _numbers(rng: Random, low: int = 3, high: int = 5) -> list[int]:
    return [rng.randrange(1, 20) for _ in range(rng.randrange(low, high + 1))]


def _line(rng: Random) -> str:
    """An expression whose value is not negative and short."""
    numbers, text = _numbers(rng), rng.choice(_TEXTS)
    a, b, c = (rng.randrange(2, 13) for _ in range(3))
    return rng.choice(
        (
            f"len({text!r})", f"{text!r}.upper()", f"{text!r}[0]", f"{text!r}[-1]",
            f"{text!r}[{rng.randrange(1, 3)}:{rng.randrange(3, 5)}]", f"{text!r}.count('e')",
            f"sum({numbers})", f"max({numbers})", f"min({numbers})", f"len({numbers})",
            f"sorted({numbers})", f"{numbers}[1]", f"{numbers}[-1]", f"{a} + {b} * {c}",
            f"({a} + {b}) * {c}", f"{a * b + c} // {b}", f"{a * b + c} % {b}", f"{a} ** 2",
            f"[x * {a} for x in {numbers[:3]}]", f"[x for x in {numbers} if x > {b}]",
            f"sum(range({a}))", f"list(range({a}, {a + rng.randrange(2, 5)}))",
            f"'a' * {rng.randrange(2, 6)}", f"{a} > {b}", f"{a} in {numbers}", f"abs({a} - {a + b})",
            f"len(set({[*numbers, numbers[0]]}))", f"'-'.join({list(text[:3])})",
        )
    )  # fmt: skip


def code_output(rng: Random) -> Iterator[Task]:
    """The value of one expression: lengths, slices, sums, comprehensions, precedence."""
    while True:
        expression = _line(rng)
        # Built above from fixed forms: nothing foreign is evaluated.
        right = str(eval(expression, {}))  # noqa: S307
        prompt = f"What does this Python code print? print({expression}) Give only the output."
        yield Task("code_output", prompt, right, max_tokens=20)


def _tests(function: str, of: Callable[..., Any], *arguments: tuple[Any, ...]) -> str:
    calls = (f"{function}({', '.join(map(repr, args))}) == {of(*args)!r}" for args in arguments)
    return "\n".join(f"assert {call}" for call in calls)


_LISTS = (([3, 1, 2],), ([10, 4, 7, 7],), ([5],), ([-2, 8, 0, 3],))
_STRINGS = (("stone",), ("Apple pie",), ("noon",), ("a b c",))
_INTS = ((0,), (1,), (5,), (8,), (12,))
_PAIRS = ((3, 4), (10, 2), (7, 7), (0, 9))

_Spec = tuple[str, str, Callable[..., Any], tuple[tuple[Any, ...], ...]]

_PLAIN: tuple[_Spec, ...] = (
    ("is_even(n)", "returns True if n is even", lambda n: n % 2 == 0, _INTS),
    ("is_odd(n)", "returns True if n is odd", lambda n: n % 2 == 1, _INTS),
    ("square(n)", "returns the square of n", lambda n: n * n, _INTS),
    ("cube(n)", "returns the cube of n", lambda n: n**3, _INTS),
    ("add(a, b)", "returns the sum of a and b", lambda a, b: a + b, _PAIRS),
    ("subtract(a, b)", "returns a minus b", lambda a, b: a - b, _PAIRS),
    ("larger(a, b)", "returns the larger of a and b", max, _PAIRS),
    ("smaller(a, b)", "returns the smaller of a and b", min, _PAIRS),
    ("average(a, b)", "returns the mean of a and b", lambda a, b: (a + b) / 2, _PAIRS),
    ("is_divisor(a, b)", "returns True if b divides a, b > 0", lambda a, b: a % b == 0, _PAIRS),
    ("factorial(n)", "returns n factorial", math.factorial, _INTS[:4]),
    ("total(xs)", "returns the sum of the list xs", sum, _LISTS),
    ("largest(xs)", "returns the largest number in the list xs", max, _LISTS),
    ("smallest(xs)", "returns the smallest number in the list xs", min, _LISTS),
    ("count_items(xs)", "returns how many items the list xs has", len, _LISTS),
    ("first(xs)", "returns the first item of the list xs", lambda xs: xs[0], _LISTS),
    ("last(xs)", "returns the last item of the list xs", lambda xs: xs[-1], _LISTS),
    ("backwards(xs)", "returns the list xs in reverse order", lambda xs: xs[::-1], _LISTS),
    ("ascending(xs)", "returns the list xs sorted, smallest first", sorted, _LISTS),
    ("descending(xs)", "returns the list xs sorted, largest first",
     lambda xs: sorted(xs, reverse=True), _LISTS),
    ("evens(xs)", "returns the even numbers of the list xs", lambda xs: [x for x in xs if x % 2 == 0],
     _LISTS),
    ("odds(xs)", "returns the odd numbers of the list xs", lambda xs: [x for x in xs if x % 2], _LISTS),
    ("positives(xs)", "returns the numbers of the list xs above 0",
     lambda xs: [x for x in xs if x > 0], _LISTS),
    ("squares(xs)", "returns a list of the squares of the numbers in xs",
     lambda xs: [x * x for x in xs], _LISTS),
    ("product(xs)", "returns the product of the numbers in the list xs", math.prod,
     _LISTS),
    ("mean(xs)", "returns the mean of the list xs", lambda xs: sum(xs) / len(xs), _LISTS[2:]),
    ("spread(xs)", "returns the largest minus the smallest number of the list xs",
     lambda xs: max(xs) - min(xs), _LISTS),
    ("has_duplicates(xs)", "returns True if any item occurs twice in the list xs",
     lambda xs: len(set(xs)) < len(xs), _LISTS),
    ("second_largest(xs)", "returns the second largest number of the list xs",
     lambda xs: sorted(xs)[-2], (_LISTS[0], _LISTS[3], ([9, 4, 6],))),
    ("length(s)", "returns the length of the string s", len, _STRINGS),
    ("shout(s)", "returns the string s in upper case", str.upper, _STRINGS),
    ("flip(s)", "returns the string s backwards", lambda s: s[::-1], _STRINGS),
    ("count_vowels(s)", "returns how many vowels (aeiou, any case) the string s has",
     lambda s: sum(c in "aeiou" for c in s.lower()), _STRINGS),
    ("count_words(s)", "returns how many words the string s has", lambda s: len(s.split()), _STRINGS),
    ("is_palindrome(s)", "returns True if the string s reads the same backwards",
     lambda s: s == s[::-1], _STRINGS),
    ("initials(s)", "returns the first letter of every word of s as one string",
     lambda s: "".join(w[0] for w in s.split()), _STRINGS),
    ("remove_spaces(s)", "returns the string s without spaces", lambda s: s.replace(" ", ""), _STRINGS),
    ("longest_word(s)", "returns the longest word of the string s",
     lambda s: max(s.split(), key=len), (("Apple pie",), ("one three",), ("hi",))),
    ("digits_sum(n)", "returns the sum of the decimal digits of n",
     lambda n: sum(map(int, str(n))), ((0,), (7,), (123,), (905,))),
    ("is_prime(n)", "returns True if n is a prime number",
     lambda n: n > 1 and all(n % d for d in range(2, n)), ((0,), (1,), (2,), (9,), (13,))),
    ("fibonacci(n)", "returns the n-th Fibonacci number, where fibonacci(0) is 0 and fibonacci(1) is 1",
     lambda n: _fibonacci(n), _INTS),
    ("gcd(a, b)", "returns the greatest common divisor of a and b",
     math.gcd, ((12, 18), (7, 5), (9, 27))),
)  # fmt: skip


def _fibonacci(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def _with_number(rng: Random) -> _Spec:
    """One of the forms that hold a number of their own."""
    k = rng.randrange(2, 10)
    letter = rng.choice("aeonrst")
    forms: tuple[_Spec, ...] = (
        ("scale(n)", f"returns n multiplied by {k}", lambda n: n * k, _INTS),
        ("shift(n)", f"returns n plus {k}", lambda n: n + k, _INTS),
        ("power(n)", f"returns n to the power of {k}", lambda n: n**k, _INTS[:4]),
        ("rest(n)", f"returns the remainder of n divided by {k}", lambda n: n % k, _INTS),
        ("is_multiple(n)", f"returns True if n is a multiple of {k}", lambda n: n % k == 0, _INTS),
        ("above(xs)", f"returns the numbers of the list xs that are larger than {k}",
         lambda xs: [x for x in xs if x > k], _LISTS),
        ("count_above(xs)", f"returns how many numbers of the list xs are larger than {k}",
         lambda xs: sum(x > k for x in xs), _LISTS),
        ("scaled(xs)", f"returns a list of the numbers of xs multiplied by {k}",
         lambda xs: [x * k for x in xs], _LISTS),
        ("repeat(s)", f"returns the string s repeated {k} times", lambda s: s * k, _STRINGS),
        ("head(s)", f"returns the first {k} characters of the string s", lambda s: s[:k], _STRINGS),
        ("count_letter(s)", f"returns how often the letter '{letter}' is in the string s",
         lambda s: s.count(letter), _STRINGS),
        ("without_letter(s)", f"returns the string s without the letter '{letter}'",
         lambda s: s.replace(letter, ""), _STRINGS),
        ("multiples(n)", f"returns a list of the first n multiples of {k}, beginning with {k}",
         lambda n: [k * i for i in range(1, n + 1)], _INTS[1:4]),
    )  # fmt: skip
    return rng.choice(forms)


def code_functions(rng: Random) -> Iterator[Task]:
    """A function by name and what it returns; three to five assertions."""
    plain = list(_PLAIN)
    rng.shuffle(plain)
    while True:
        call, does, of, arguments = plain.pop() if plain else _with_number(rng)
        prompt = f"Write a Python function {call} that {does}. Only code, no comments."
        tests = _tests(call.partition("(")[0], of, *arguments)
        yield Task("code_functions", prompt, tests, max_tokens=96)
