"""What never reaches the disk: credentials always, and whatever the user's redactor removes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson

MASK = "[redacted]"

_SECRET_KEY = re.compile(
    r"(?:[\w.-]*api[-_]?key|[\w-]*authorization|(?:set-)?cookie|password|passwd|[\w-]*secret"
    r"|[\w-]*(?:access|refresh|auth|bearer|api|id)[-_]?token)\Z",
    re.IGNORECASE,
)
_KEY_ENDS = tuple(
    f'{end}":'
    for end in ("key", "authorization", "cookie", "password", "passwd", "secret", "token")
)
"""Looked for first, in lower-cased text: ten times cheaper than parsing or a pattern."""

_TOKEN = re.compile(
    r"(?i:\bbearer\s+)[\w.~+/=-]{8,}|\b(?:sk-|sk_|rk_|gsk_|xai-|hf_|ghp_|lsv2_|AIza)[\w-]{16,}"
)
_TOKEN_STARTS = ("sk-", "sk_", "rk_", "xai-", "hf_", "ghp_", "lsv2_", "aiza", "bearer")
_ASSIGNED = re.compile(r"(?i)(\bapi[-_ ]?key\b['\"]?\s*[=:]\s*['\"]?)[^\s'\"&,}{]{6,}")
_SECRET_VARIABLE = re.compile(r"(?:KEY|TOKEN|SECRET|PASSWORD)\Z")
_TELLING_VALUE = re.compile(r"(?=.*\d)(?=.*[A-Za-z]).{8,}\Z")


def known_secrets() -> tuple[str, ...]:
    """Values of environment variables that hold credentials by their name.

    They are removed wherever they occur, whatever they look like. Values under eight characters
    or without both a letter and a digit are left alone: ``not-needed`` is a usual key of local
    servers and an ordinary word, and digits alone may be a number.
    """
    return tuple(
        value
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name) and _TELLING_VALUE.match(value)
    )


def scrub_json(text: str, secrets: Sequence[str] = ()) -> str:
    """JSON text without credentials: values under telling keys, and ``secrets`` anywhere."""
    if _holds_any(text, _KEY_ENDS):
        value = orjson.loads(text)
        if _drop_secret_values(value):
            text = orjson.dumps(value).decode()
    return _replace(text, secrets)


def scrub_tokens(text: str) -> str:
    """Text without what has the shape of a credential; JSON stays JSON."""
    return _TOKEN.sub(MASK, text) if _holds_any(text, _TOKEN_STARTS) else text


def scrub_text(text: str, secrets: Sequence[str] = ()) -> str:
    """Free text (an error, a traceback) without credentials."""
    return _ASSIGNED.sub(rf"\g<1>{MASK}", scrub_tokens(_replace(text, secrets)))


def redact_patterns(*patterns: str, replacement: str = MASK) -> Callable[[Any], Any]:
    """A redactor for :class:`Recorder`: every match of a regular expression in any string,
    dict keys included, becomes ``replacement``."""
    compiled = [re.compile(pattern) for pattern in patterns]

    def redact(value: Any) -> Any:
        if isinstance(value, str):
            for pattern in compiled:
                value = pattern.sub(replacement, value)
            return value
        if isinstance(value, dict):
            return {redact(key): redact(item) for key, item in value.items()}
        if isinstance(value, list):
            return [redact(item) for item in value]
        return value

    return redact


def _holds_any(text: str, parts: Sequence[str]) -> bool:
    lowered = text.lower()
    return any(part in lowered for part in parts)


def _replace(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if secret in text:
            text = text.replace(secret, MASK)
    return text


def _drop_secret_values(value: Any) -> bool:
    """Mask in place; True if anything was masked. Only strings: a tool's schema may well
    describe an ``api_key`` argument, and that is no secret."""
    found = False
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and item and _SECRET_KEY.match(key):
                value[key] = MASK
                found = True
            elif isinstance(item, (dict, list)):
                found |= _drop_secret_values(item)
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, (dict, list)):
                found |= _drop_secret_values(item)
    return found
