"""What went wrong with an attempt, read off the exception, for any provider's client."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from langchain_core import exceptions as core
from pydantic import ValidationError

from xrouter_lg.errors import ConfigurationError, ErrorClass, MissingKeyError

RETRYABLE = frozenset(
    {
        ErrorClass.RATE_LIMIT,
        ErrorClass.SERVER,
        ErrorClass.CONNECTION,
        ErrorClass.EMPTY,
        ErrorClass.MALFORMED,
    }
)
"""Worth another attempt on the same card. A timeout is not: it has cost its seconds already."""

UNHEALTHY = frozenset(
    {
        ErrorClass.RATE_LIMIT,
        ErrorClass.SERVER,
        ErrorClass.CONNECTION,
        ErrorClass.TIMEOUT,
        ErrorClass.AUTH,
        ErrorClass.QUOTA,
    }
)
"""Counts against a card's health; the others are about one request, not the card."""

_BY_STATUS = {
    401: ErrorClass.AUTH,
    403: ErrorClass.AUTH,
    402: ErrorClass.QUOTA,
    408: ErrorClass.TIMEOUT,
    409: ErrorClass.SERVER,
    413: ErrorClass.CONTEXT_LENGTH,
    429: ErrorClass.RATE_LIMIT,
}

# LangChain's own classes (langchain-core >= 1.7) come first; a provider's package that does not
# use them yet is read by its HTTP status and, last, by the names that HTTP clients share.
_BY_CORE: tuple[tuple[type[BaseException], ErrorClass], ...] = (
    (core.ContextOverflowError, ErrorClass.CONTEXT_LENGTH),
    (core.ModelTimeoutError, ErrorClass.TIMEOUT),
    (core.ModelRateLimitError, ErrorClass.RATE_LIMIT),
    (core.ModelAuthenticationError, ErrorClass.AUTH),
    (core.ModelPermissionDeniedError, ErrorClass.AUTH),
    (core.ModelNotFoundError, ErrorClass.BAD_REQUEST),
    (core.ModelInvalidRequestError, ErrorClass.BAD_REQUEST),
    (core.ModelAPIError, ErrorClass.SERVER),
    (core.ModelConnectionError, ErrorClass.CONNECTION),
)
_TIMEOUT_NAME = re.compile(r"Time(d)?out|DeadlineExceeded")
_CONNECTION_NAME = re.compile(
    r"Connect(ion)?(Error|Reset|Refused|Aborted)|ProtocolError|ReadError|WriteError|ServerDisconnected"
    r"|IncompleteRead|ClosedResource|BrokenPipe"
)
_CONTEXT_TEXT = re.compile(
    r"context.?length|context.?window|maximum context|too many tokens", re.IGNORECASE
)
# Anything that looks like a credential, so that a provider that echoes a key leaks nothing.
_SECRET = re.compile(
    r"\b((?:sk|pk|rk|gsk|xai|hf|r8|ghp|nvapi|lsv2|pplx)[-_]|AIza|AKIA)[A-Za-z0-9*._-]{8,}"
    r"|((?i:api[-_ ]?key|bearer|token|secret|password|authorization|credentials?)"
    r"(?:[ ]\w+)?[\"']?(?:\s*[:=]\s*|\s+)[\"']?)(?=[^\s\"',]*[0-9*])[^\s\"',;)]{8,}"
)
_SECRET_VARIABLE = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)

_DETAIL_CHARS = 300


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt. ``retry_after_s`` is what the provider asked for, in seconds;
    ``free`` says that the provider refused before it generated a token."""

    error_class: ErrorClass
    detail: str
    retry_after_s: float | None = None
    free: bool = False


def classify(error: BaseException) -> Failure:
    """Class, wording and price of a failure; never raises."""
    detail = describe(error)
    status = _status(error)
    error_class = _class_of(error, status)
    if error_class in (ErrorClass.BAD_REQUEST, ErrorClass.SERVER) and _CONTEXT_TEXT.search(detail):
        error_class = ErrorClass.CONTEXT_LENGTH
    if error_class is ErrorClass.RATE_LIMIT and "insufficient_quota" in _code(error):
        error_class = ErrorClass.QUOTA
    refused = status is not None and 400 <= status < 500 and status != 408
    free = refused or _never_sent(error) or isinstance(error, ConfigurationError)
    headers = getattr(getattr(error, "response", None), "headers", None)
    asked = None if headers is None else retry_after_s(headers)
    return Failure(error_class, detail, asked, free=free)


def describe(error: BaseException) -> str:
    """The error in one line, without anything that looks like a key and without the value of
    any environment variable that is named like one."""
    name = type(error).__name__
    try:
        text = " ".join(str(error).split())
    except Exception:
        text = "(its text can't be read)"
    for variable, value in os.environ.items():
        if len(value) >= 8 and _SECRET_VARIABLE.search(variable):
            text = text.replace(value, "[hidden]")
    text = _SECRET.sub(lambda found: f"{found[1] or found[2]}[hidden]", text)
    return f"{name}: {text}"[:_DETAIL_CHARS] if text else name


def _class_of(error: BaseException, status: int | None) -> ErrorClass:
    if isinstance(error, ConfigurationError):  # a card that can't be built; nothing was sent
        is_key = isinstance(error, MissingKeyError)
        return ErrorClass.AUTH if is_key else ErrorClass.BAD_REQUEST
    for kind, error_class in _BY_CORE:
        if isinstance(error, kind):
            return error_class
    if status is not None:
        if status in _BY_STATUS:
            return _BY_STATUS[status]
        return ErrorClass.SERVER if status >= 500 else ErrorClass.BAD_REQUEST
    if isinstance(error, json.JSONDecodeError | ValidationError):
        return ErrorClass.MALFORMED
    for link in chain(error):
        name = type(link).__name__
        if isinstance(link, TimeoutError) or _TIMEOUT_NAME.search(name):
            return ErrorClass.TIMEOUT
        if isinstance(link, ConnectionError) or _CONNECTION_NAME.search(name):
            return ErrorClass.CONNECTION
        if isinstance(link, json.JSONDecodeError) or "ResponseValidation" in name:
            return ErrorClass.MALFORMED
    # A client that reads a body that is not what it expects (an HTML page, a missing field)
    # fails like this.
    if isinstance(error, ValueError | KeyError | TypeError | AttributeError | IndexError):
        return ErrorClass.MALFORMED
    if "error" in _code(error) and hasattr(error, "body"):
        return ErrorClass.SERVER  # an error event inside a stream has no status
    return ErrorClass.UNKNOWN


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, then what it was raised from or amid, each once."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _status(error: BaseException) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "http_status", "status", "code"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return None


def _code(error: BaseException) -> str:
    body = getattr(error, "body", None)
    parts: list[Any] = [getattr(error, "code", None), getattr(error, "type", None)]
    if isinstance(body, Mapping):
        inner = body.get("error")
        parts += [body.get("code"), body.get("type")]
        if isinstance(inner, Mapping):
            parts += [inner.get("code"), inner.get("type")]
    return " ".join(str(part) for part in parts if part)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, as a number or as a date; None without one
    that can be read."""
    value = headers.get("retry-after") or headers.get("Retry-After")
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def backoff_s(attempt: int, *, first_s: float, longest_s: float) -> float:
    """Seconds to wait after the ``attempt``-th failure in a row: twice as long each time, with
    jitter, so that many clients don't come back at once."""
    return random.uniform(0.5, 1.0) * min(longest_s, first_s * 2.0 ** (attempt - 1))


def _never_sent(error: BaseException) -> bool:
    """Whether the request can't have reached the provider."""
    return any(
        isinstance(link, ConnectionRefusedError)
        or type(link).__name__ in ("ConnectError", "ConnectTimeout", "ClientConnectorError")
        for link in chain(error)
    )
