"""How long to wait before another attempt: as a provider asks, or ever longer."""

from __future__ import annotations

import contextlib
import math
import random
import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_RETRY_DELAY = re.compile(r"retryDelay\W{1,5}(\d+(?:\.\d+)?)s")
_TRY_AGAIN = re.compile(
    r"(?:try again|retry) (?:in|after) ([\d.hms]{1,30})( seconds)?", re.IGNORECASE
)
_DURATION = re.compile(r"(?:(\d{1,4})h)?(?:(\d{1,4})m(?!s))?(?:(\d{1,9}(?:\.\d{1,9})?)(m?s))?")
_RESET = re.compile(r"x-ratelimit-reset\W{1,5}(\d{13})\b", re.IGNORECASE)
"""OpenRouter's moment in milliseconds, which stands in the error's own body."""


def asked_pause_s(links: Iterable[BaseException], told: str) -> float | None:
    """Seconds that a provider asks for before the next attempt, by the headers of a response that
    one of these errors holds, or by what was said; None where it does not ask."""
    for link in links:
        for holder in (link, getattr(link, "response", None), getattr(link, "raw_response", None)):
            headers = getattr(holder, "headers", None)
            if isinstance(headers, Mapping) and (asked := retry_after_s(headers)) is not None:
                return asked
    if found := _RETRY_DELAY.search(told):  # Google says it in the body
        return float(found[1])
    if found := _RESET.search(told):
        return max(0.0, int(found[1]) / 1000 - time.time())
    found = _TRY_AGAIN.search(told)  # OpenAI, in words
    return None if found is None else _seconds(f"{found[1]}s" if found[2] else found[1])


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as a number or as a date; None without one
    that can be read."""
    named = {name.lower(): value for name, value in headers.items()}
    if (milliseconds := named.get("retry-after-ms")) is not None:
        with contextlib.suppress(ValueError):
            return max(0.0, float(milliseconds) / 1000)
    value = named.get("retry-after")
    if not value:
        return _until_reset(named)
    try:
        seconds = float(value)
        return None if math.isnan(seconds) else max(0.0, seconds)
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _until_reset(headers: Mapping[str, str]) -> float | None:
    """Seconds until the limits are new of which OpenAI's headers say that nothing is left."""
    pauses = [
        _seconds(headers.get(f"x-ratelimit-reset-{of}", ""))
        for of in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{of}") == "0"
    ]
    return max((pause for pause in pauses if pause is not None), default=None)


def backoff_s(attempt: int, *, first_s: float, longest_s: float) -> float:
    """Seconds to wait after the ``attempt``-th failure in a row: twice as long each time, with
    jitter, so that many clients don't come back at once."""
    return random.uniform(0.5, 1.0) * min(longest_s, first_s * 2.0 ** (attempt - 1))


def _seconds(duration: str) -> float | None:
    """A duration as Go writes it (``1m2.5s``, ``120ms``); None for none."""
    found = _DURATION.match(duration)
    assert found is not None  # every part of it may be missing
    hours, minutes, rest, unit = found.groups()
    if hours is None and minutes is None and rest is None:
        return None
    seconds = float(rest or 0) / (1000 if unit == "ms" else 1)
    return 3600 * int(hours or 0) + 60 * int(minutes or 0) + seconds
