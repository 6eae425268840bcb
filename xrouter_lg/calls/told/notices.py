"""One log line for each thing that degrades, with the fix; the same thing again after a while only.

A request that is saved by a fallback looks like any other to its user. Whoever runs the app has to
hear of it, but not once per request.
"""

from __future__ import annotations

import logging
import threading
import time

from xrouter_lg.calls.failures import Failure
from xrouter_lg.errors import ErrorClass, PolicyTimeoutError
from xrouter_lg.tracing.runs.redact import known_secrets, scrub_text

logger = logging.getLogger("xrouter_lg")

EVERY_S = 60.0
"""Seconds for which the same notice is not repeated."""
_KEPT = 1024

_FIXES = {
    ErrorClass.AUTH: "check its key (api_key_env), and what the key may use",
    ErrorClass.QUOTA: "its account has no credit or quota left: top it up, or take the card out",
    ErrorClass.RATE_LIMIT: "ask its provider for a higher limit, or add a card beside it",
    ErrorClass.TIMEOUT: "raise its timeout_s if it is merely slow, or take it out of the pool",
    ErrorClass.CONNECTION: "check its base_url, and whether a server answers there",
    ErrorClass.BAD_REQUEST: "check its model, base_url and params: the provider refuses the call",
    ErrorClass.NOT_FOUND: "check its model and base_url: nobody there knows that model",
    ErrorClass.CONTEXT_LENGTH: "give its context_window, so that longer prompts pass it by",
    ErrorClass.SERVER: "look at its provider's status; another card answers meanwhile",
    ErrorClass.STREAM_CUT: "look at the proxy or gateway in between: streams end half-way",
}
_ANY_FIX = "try it by hand (xrouter pool check), or take it out of the pool"

_UNTOLD = frozenset({ErrorClass.CONTENT_FILTER, ErrorClass.TRUNCATED, ErrorClass.CIRCUIT_OPEN})
"""What says something of the question, not of the card; and what was told as it came about."""


class Seldom:
    """Lets a notice through when the same one has not passed for ``every_s`` seconds."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self._every_s = every_s
        self._passed: dict[object, tuple[float, int]] = {}
        self._lock = threading.Lock()

    def passes(self, key: object) -> int | None:
        """How many were held back since the last one; None for one that is held back."""
        now = time.monotonic()
        with self._lock:
            last, held = self._passed.get(key, (None, 0))
            if last is not None and now - last < self._every_s:
                self._passed[key] = (last, held + 1)
                return None
            if len(self._passed) >= _KEPT:
                self._passed.clear()
            self._passed[key] = (now, 0)
            return held

    def clear(self) -> None:
        """Forget what has passed."""
        with self._lock:
            self._passed.clear()


notices = Seldom()


def notice(key: object, text: str) -> None:
    """Log a warning without credentials, unless this one was logged a moment ago."""
    held = notices.passes(key)
    if held is not None:
        said = scrub_text(text, known_secrets())
        logger.warning("%s%s", said, f" ({held} more since the last notice)" if held else "")


def notice_failed_call(card: str, failure: Failure) -> None:
    """A card did not answer, and whoever called it goes on without it."""
    kind = failure.error_class
    if kind in _UNTOLD:
        return
    fix = _FIXES.get(kind, _ANY_FIX)
    notice(("card", card, kind), f"card {card!r} failed ({kind}): {failure.detail}. Fix: {fix}.")


def notice_failed_model(name: str, version: str, error: Exception) -> None:
    """A checkpoint's language model did not answer, and its value model decides alone."""
    notice(
        ("model", name, version, type(error)),
        f"the language model of policy {name!r} (version {version}) failed, its value model "
        f"decides alone: {error}. Fix: see whether its server is up and loads this checkpoint.",
    )


def notice_failed_policy(name: str, version: str, error: BaseException, text: str) -> None:
    """A policy made no proposal; the default card, or the best answer so far, is taken."""
    if isinstance(error, PolicyTimeoutError):
        fix = "raise its timeout_s, or find out what it waits for"
    elif isinstance(error, TypeError) and "await" in str(error):
        fix = "its propose must be a coroutine function: async def propose(self, request, ...)"
    else:
        fix = "a policy must return a Proposal over the candidates that it was given"
    notice(
        ("policy", name, type(error)),
        f"policy {name!r} (version {version}) failed, the fallback decides: {text}. Fix: {fix}.",
    )
