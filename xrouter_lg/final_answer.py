"""What an answer comes down to: two answers agree if this is the same.

It decides whether a cascade stops, so an answer without a value agrees with nothing. Verifiers
compare with a known reference and read more exactly, each its own kind
(:mod:`xrouter_lg.verifiers`).
"""

from __future__ import annotations

import json
import re

_FIELD = re.compile(r'"answer"\s*:\s*("[^"\\]*+(?:\\.[^"\\]*+)*+"|[^\n}]++)')
_BOXED = re.compile(r"\\boxed\{((?:[^{}]++|\{[^{}]*+\})*+)\}")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_NOISE = re.compile(r"[\s$]|\\[,;!]|\\text\{[^{}]*+\}")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:[\d,]*\d|[\d,]*+\.\d++)%?")


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


def _normalised(answer: str) -> str:
    text = _NOISE.sub("", answer.lower()).strip("\"'.")
    text = text.replace("\\dfrac", "\\frac")
    if _PLAIN_NUMBER.fullmatch(text):
        text = text.replace(",", "").rstrip("%")
        return f"{float(text):.10g}"
    # '' is a real answer in code tasks ("the function returns an empty string").
    return text or "''"
