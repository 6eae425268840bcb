"""Texts that a regular expression would take longest for, made from the expression itself.

Every unbounded repeat is pumped: behind what leads to it, once and over and over, with an end that
does not match. A pattern whose time grows by more than its text on one of these is not linear.
"""

from __future__ import annotations

import itertools
import re
import re._constants as sre  # type: ignore[import-not-found]
import re._parser as parser  # type: ignore[import-not-found]
import time
from collections.abc import Callable, Iterator
from typing import Any

_MANY = 64
"""A repeat that may be longer than this counts as unbounded."""

COMMON = (
    "_", "a_", "a", "api_key", "user_account_setting_value_", " ", "\n", "1", "1 ", "a.", "-",
    "/", "://a:", "@", "a@", '"', '\\"', "{", "[", "<", "<think>", "token:", "bearer ", "eyJ",
    "eyJaaaaaaaa.", "-----BEGIN ", "sk-", "=", "key=", "é", "\ud83d", "data:a/b,", "\\", "$",
)  # fmt: skip
"""Shapes that anyone may send."""


def attacks(pattern: re.Pattern[Any]) -> Iterator[tuple[str, str, str]]:
    """Lead, body and end of every attack: the body is to be repeated."""
    flags = pattern.flags & ~re.DEBUG
    text = pattern.pattern
    tree = parser.parse(text if isinstance(text, str) else text.decode("latin-1"), flags & ~re.U)
    seen: set[tuple[str, str]] = set()
    for lead, body in _pumps(list(tree), ""):
        for pump in (body, lead + body, lead + body * 3, lead):
            if pump and (lead, pump) not in seen:
                seen.add((lead, pump))
                yield lead, pump, "\x00"


def _pumps(items: list[Any], lead: str) -> Iterator[tuple[str, str]]:
    for op, value in items:
        if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            low, high, inner = value
            yield from _pumps(list(inner), lead)
            if high == sre.MAXREPEAT or high > _MANY:
                for body in _samples(list(inner)):
                    yield lead, body
            lead += "".join(itertools.repeat(_sample(list(inner)), min(low, _MANY)))
        elif op is sre.BRANCH:
            for option in value[1]:
                yield from _pumps(list(option), lead)
            lead += _sample(list(value[1][0]))
        elif op is sre.SUBPATTERN:
            yield from _pumps(list(value[3]), lead)
            lead += _sample(list(value[3]))
        elif op is sre.ATOMIC_GROUP:
            yield from _pumps(list(value), lead)
            lead += _sample(list(value))
        elif op in (sre.ASSERT, sre.ASSERT_NOT):
            yield from _pumps(list(value[1]), lead)
        else:
            lead += _sample([(op, value)])


def _samples(items: list[Any]) -> list[str]:
    """Some texts that the items match, and all characters of a set where there is but one item."""
    if len(items) == 1 and items[0][0] is sre.IN:
        return list(dict.fromkeys(_of_set(items[0][1], every=True)))
    if len(items) == 1 and items[0][0] is sre.BRANCH:
        return [_sample(list(option)) for option in items[0][1][1]]
    return [_sample(items)]


def _sample(items: list[Any]) -> str:
    said = ""
    for op, value in items:
        if op is sre.LITERAL:
            said += chr(value)
        elif op is sre.NOT_LITERAL:
            said += "b" if value == ord("a") else "a"
        elif op is sre.ANY:
            said += "a"
        elif op is sre.IN:
            said += next(iter(_of_set(value)), "")
        elif op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            said += _sample(list(value[2])) * max(1, min(value[0], _MANY))
        elif op is sre.BRANCH:
            said += _sample(list(value[1][0]))
        elif op is sre.SUBPATTERN:
            said += _sample(list(value[3]))
        elif op is sre.ATOMIC_GROUP:
            said += _sample(list(value))
    return said


_CATEGORIES = {
    sre.CATEGORY_DIGIT: "1",
    sre.CATEGORY_NOT_DIGIT: "a",
    sre.CATEGORY_SPACE: " ",
    sre.CATEGORY_NOT_SPACE: "a",
    sre.CATEGORY_WORD: "a",
    sre.CATEGORY_NOT_WORD: " ",
}


def _of_set(items: list[Any], *, every: bool = False) -> Iterator[str]:
    if items and items[0][0] is sre.NEGATE:
        without = re.compile(_set_text(items))
        candidates = 'a1 _-."\\:/@\n' if every else 'a1_ "'
        yield from (char for char in candidates if without.match(char))
        return
    for op, value in items:
        if op is sre.LITERAL:
            yield chr(value)
        elif op is sre.RANGE:
            yield chr(value[0])
        elif op is sre.CATEGORY:
            yield _CATEGORIES[value]
            if value is sre.CATEGORY_WORD and every:
                yield from "_1"


_CLASSES = {
    sre.CATEGORY_DIGIT: r"\d",
    sre.CATEGORY_NOT_DIGIT: r"\D",
    sre.CATEGORY_SPACE: r"\s",
    sre.CATEGORY_NOT_SPACE: r"\S",
    sre.CATEGORY_WORD: r"\w",
    sre.CATEGORY_NOT_WORD: r"\W",
}


def _set_text(items: list[Any]) -> str:
    said = ""
    for op, value in items:
        if op is sre.NEGATE:
            said += "^"
        elif op is sre.LITERAL:
            said += re.escape(chr(value))
        elif op is sre.RANGE:
            said += f"{re.escape(chr(value[0]))}-{re.escape(chr(value[1]))}"
        elif op is sre.CATEGORY:
            said += _CLASSES[value]
    return f"[{said}]"


def grown(lead: str, body: str, end: str, length: int) -> str:
    """The attack at about ``length`` characters."""
    return lead + body * max(1, length // max(1, len(body))) + end


def growth(act: Callable[[str], object], make: Callable[[int], str], most: int) -> str | None:
    """Why ``act`` is not linear on the texts that ``make`` gives for a length, None where it is.

    The length grows fourfold up to ``most``, from one that is quick whatever the order: a text
    four times as long may take sixteen times as long only by being quadratic. CPU time of this
    thread, the best of three where a step looks slow, so that a busy machine does not matter.
    """
    length, before = 2_000, _cpu_s(act, make(2_000))
    while length < most:
        length = min(4 * length, most)
        now = _cpu_s(act, make(length))
        if now > 0.02 and now > 9 * before:
            now = min(now, *(_cpu_s(act, make(length)) for _ in range(2)))
            if now > 9 * max(before, 0.002):
                return f"{length} characters take {now / max(before, 1e-9):.0f} times a quarter"
        before = now
    return None


def _cpu_s(act: Callable[[str], object], text: str) -> float:
    started = time.thread_time()
    act(text)
    return time.thread_time() - started
