"""What an answer comes down to: two answers agree if this is the same.

The rules differ on purpose. :func:`final_answer` decides whether a cascade stops, so an answer
without a value agrees with nothing. :func:`final_line` is a signal that a trained prompt shows, for
prose too; another reading would be another prompt than the one trained on. Verifiers compare with
a known reference, so they read more exactly, each its own kind (:mod:`xrouter_lg.verifiers`).
"""

from __future__ import annotations

import json
import re

_FIELD = re.compile(r'"answer"\s*:\s*("(?:[^"\\]|\\.)*"|[^\n}]+)')
_BOXED = re.compile(r"\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_NOISE = re.compile(r"[\s$]|\\[,;!]|\\text\{[^}]*\}")
_LEVEL_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_LABELLED = re.compile(
    r"(?:\"answer\"|answer|result)(?:\s+is\W{1,3}|\W{1,6})([^\n\"}]{1,80})", re.IGNORECASE
)
_PLAIN_NUMBER = re.compile(r"[-+]?[\d,]*\.?\d+%?")


def final_answer(response: str | None) -> str | None:
    r"""The answer that a response ends with, normalised for comparison; None when there is none.

    Looks for the last `"answer": ...` field, then the last \boxed{...}, then the last number. A
    response without any of them has no final answer that could be compared.
    """
    if not response:
        return None
    fields = _FIELD.findall(response)
    if fields:
        raw = fields[-1].strip().rstrip(",")
        if raw.startswith('"'):
            try:
                raw = str(json.loads(raw))
            except json.JSONDecodeError:
                raw = raw.strip('"')
        return _normalised(raw)
    boxed = _BOXED.findall(response)
    if boxed:
        return _normalised(boxed[-1])
    numbers = _NUMBER.findall(response)
    return _normalised(numbers[-1]) if numbers else None


def final_line(text: str) -> str:
    """What any text ends with, normalised for comparison: a boxed value, a labelled answer, the
    last number, or the last line."""
    for pattern in (_LEVEL_BOXED, _LABELLED):
        found = pattern.findall(text)
        if found:
            return _bare(found[-1])
    numbers = _NUMBER.findall(text)
    if numbers:
        return _bare(numbers[-1])
    lines = [line for line in text.splitlines() if line.strip()]
    return _bare(lines[-1]) if lines else ""


def _normalised(answer: str) -> str:
    text = _NOISE.sub("", answer.lower()).strip("\"'.")
    text = text.replace("\\dfrac", "\\frac")
    if _PLAIN_NUMBER.fullmatch(text):
        text = text.replace(",", "").rstrip("%")
        return f"{float(text):.10g}"
    # '' is a real answer in code tasks ("the function returns an empty string").
    return text or "''"


def _bare(text: str) -> str:
    return text.strip().strip("`*\"'$.,").replace(",", "").casefold()
