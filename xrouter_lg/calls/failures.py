"""What went wrong with an attempt, read off the exception, for any provider's client."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core import exceptions as core
from pydantic import ValidationError

from xrouter_lg.calls.pauses import asked_pause_s
from xrouter_lg.errors import ConfigurationError, ErrorClass, MissingKeyError, RequestError
from xrouter_lg.tracing.runs.redact import MASK, names_secret, scrub_text

RETRYABLE = frozenset(
    {
        ErrorClass.RATE_LIMIT,
        ErrorClass.SERVER,
        ErrorClass.CONNECTION,
        ErrorClass.EMPTY,
        ErrorClass.MALFORMED,
        ErrorClass.STREAM_CUT,
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
        ErrorClass.NOT_FOUND,
        ErrorClass.STREAM_CUT,
        ErrorClass.EMPTY,
        ErrorClass.MALFORMED,
        ErrorClass.UNKNOWN,
    }
)
"""Counts against a card's health; the others are about one request, not the card."""

PERHAPS_THE_REQUEST = frozenset({ErrorClass.EMPTY, ErrorClass.MALFORMED, ErrorClass.UNKNOWN})
"""Of those that count: one odd request can bring them about on every attempt."""

_BY_STATUS = {
    401: ErrorClass.AUTH,
    403: ErrorClass.AUTH,
    402: ErrorClass.QUOTA,
    404: ErrorClass.NOT_FOUND,
    405: ErrorClass.NOT_FOUND,
    407: ErrorClass.AUTH,  # of the proxy on the way
    408: ErrorClass.TIMEOUT,
    409: ErrorClass.SERVER,
    410: ErrorClass.NOT_FOUND,
    413: ErrorClass.BAD_REQUEST,  # often of a gateway on the way; the text says it of a window
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
    (core.ModelNotFoundError, ErrorClass.NOT_FOUND),
    (core.ModelInvalidRequestError, ErrorClass.BAD_REQUEST),
    (core.ModelAPIError, ErrorClass.SERVER),
    (core.ModelConnectionError, ErrorClass.CONNECTION),
)
_TIMEOUT_NAME = re.compile(r"Time(d)?out|DeadlineExceeded")
_CONNECTION_NAME = re.compile(
    r"Connect(ion)?(Error|Reset|Refused|Aborted)|ProtocolError|ReadError|WriteError|ServerDisconnected"
    r"|IncompleteRead|ClosedResource|BrokenPipe|ProxyError|PayloadError|NameResolution"
)
_BEFORE_SENDING = frozenset(
    {
        "ConnectError",
        "ConnectTimeout",
        "ClientConnectorError",
        "NameResolutionError",
        "NewConnectionError",
        "ProxyError",
    }
)
"""Errors of HTTP clients (httpx, aiohttp, urllib3) that end a call while its connection is made."""
_BROKE_OFF = re.compile(r"complete message body|incomplete|payload", re.IGNORECASE)
"""A connection that broke amid an answer, as HTTP clients say it."""
_MALFORMED_NAME = re.compile(r"ResponseValidation|SSEError")
_CONTEXT_TEXT = re.compile(
    r"context.?length|context.?window|maximum context|available context size|too many tokens"
    r"|(prompt|input|request) is too (long|large)|maximum prompt length|input token count",
    re.IGNORECASE,
)
_LARGER_THAN_A_MINUTE = re.compile(r"request too large", re.IGNORECASE)
"""OpenAI's, of one that has more tokens than a minute is allowed."""
_FLAGGED = re.compile(
    r"content.?(filter|policy|management policy)|(violates?|violation of|violating) .{0,20}usage"
    r"|moderation|was flagged|ResponsibleAI|invalid_prompt",
    re.IGNORECASE,
)
"""What a provider says of a prompt that it won't have answered, with a 400 or a 403."""
# Half-hidden keys (sk-ab***yz) too, which providers repeat; whole ones are known elsewhere.
_SECRET = re.compile(
    r"\b((?:sk|pk|rk|gsk|xai|hf|r8|ghp|nvapi|lsv2|pplx)[-_]|AIza|AKIA)[A-Za-z0-9*._-]{8,}"
    r"|((?i:api[-_ ]?key|bearer|token|secret|password|authorization|credentials?)"
    r"(?:[ ]\w{1,64}+)?[\"']?(?:\s{0,64}[:=]\s{0,64}+|\s{1,64}+)[\"']?)"
    r"(?=[^\s\"',]{0,256}[0-9*])[^\s\"',;)]{8,}+"
)

_NO_SUCH_MODEL = re.compile(
    r"model_not_found|model_decommissioned|not a valid model|invalid model\b"
    r"|\bmodel\b.{0,80}(does not exist|not exist|not found|(deprecated|decommissioned|retired))",
    re.IGNORECASE,
)
# Several providers answer with a plain 400 where no request of this account will ever pass.
_NO_MONEY = re.compile(
    r"credit balance|billing.{0,6}limit|insufficient.?(quota|credit|balance)", re.IGNORECASE
)
_NO_ACCESS = re.compile(
    r"api[ _]key(_invalid| not valid| expired)|(incorrect|invalid) api[ _]key"
    r"|location is not supported|organization must be verified",
    re.IGNORECASE,
)
_NO_ACCESS_TO_PARAMETER = re.compile(r"not allowed to request \w+ from", re.IGNORECASE)
_UNKNOWN_KEYWORD = re.compile(r"got an unexpected keyword argument")
_OF_A_REQUEST = re.compile(r"(Config|Request|RequestInput|Params|Input)$")
"""How packages name what they check a request by before they send it."""
_SAYS_NOTHING = re.compile(
    r"(error code: \d+( - )?)?(provider returned error|an error occurred during streaming)?\.?",
    re.IGNORECASE,
)
_A_DAY = re.compile(r"\bper.?day\b|PerDay|\bRPD\b|\bTPD\b")

# An error that comes inside a good response has no status: its code or its words say what it is.
_CODE_IN_TEXT = re.compile(r"\b(?:code|status)\W{1,4}([45]\d\d)\b", re.IGNORECASE)
_BY_WORDS: tuple[tuple[re.Pattern[str], ErrorClass], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), error_class)
    for pattern, error_class in (
        (r"insufficient.?(quota|credit|balance)|billing|payment", ErrorClass.QUOTA),
        (r"rate.?limit|too many requests|resource.?exhausted|throttl", ErrorClass.RATE_LIMIT),
        (
            r"content.?(filter|policy)|usage.polic|moderation|blocked|invalid_prompt",
            ErrorClass.CONTENT_FILTER,
        ),
        (r"authentication|unauthori[sz]ed|invalid.{0,12}key|permission", ErrorClass.AUTH),
        (r"not.?found|does not exist", ErrorClass.NOT_FOUND),
        (r"context.?length|context.?window|too many tokens", ErrorClass.CONTEXT_LENGTH),
        (
            r"(invalid|bad).?(request|image|base64)|image_parse_error|unsupported_image",
            ErrorClass.BAD_REQUEST,
        ),
        (r"time.?out|timed out", ErrorClass.TIMEOUT),
        (
            r"overload|capacity|unavailable|internal|(server|api|provider|upstream)\w{0,20}.{0,12}error"
            r"|bad gateway|\bresponse \S{1,200} failed",
            ErrorClass.SERVER,
        ),
    )
)

_DETAIL_CHARS = 300
_READ_CHARS = 20_000
"""Of an error's text; a provider may send any amount of it."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt. ``retry_after_s`` is what the provider asked for, in seconds;
    ``free`` says that the provider refused before it generated a token."""

    error_class: ErrorClass
    detail: str
    retry_after_s: float | None = None
    free: bool = False
    unbilled: bool = False
    """What it has cost is unknown, and most probably nothing: an error of the server's own, a page
    that is no model's answer, a connection that broke before an answer began."""
    cause: BaseException | None = field(default=None, repr=False, compare=False)
    """The provider's own exception, where there is one."""


def classify(error: BaseException) -> Failure:
    """Class, wording and price of a failure; never raises."""
    detail = describe(error)
    status = _status(error)
    error_class = _class_of(error, status)
    if error_class in (ErrorClass.BAD_REQUEST, ErrorClass.SERVER) and _CONTEXT_TEXT.search(detail):
        error_class = ErrorClass.CONTEXT_LENGTH
    if error_class is ErrorClass.RATE_LIMIT and _LARGER_THAN_A_MINUTE.search(detail):
        error_class = ErrorClass.CONTEXT_LENGTH  # it never passes
    unsent = isinstance(error, ConfigurationError | RequestError) or _refused_by_client(error)
    if error_class is ErrorClass.BAD_REQUEST and not unsent:
        error_class = _of_refusal(f"{_code(error)} {detail}")
    if error_class is ErrorClass.AUTH and _NO_ACCESS_TO_PARAMETER.search(detail):
        error_class = ErrorClass.BAD_REQUEST
    if error_class is ErrorClass.RATE_LIMIT and "insufficient_quota" in _code(error):
        error_class = ErrorClass.QUOTA
    told = _told(error)
    refusals = (ErrorClass.BAD_REQUEST, ErrorClass.AUTH)
    if status is not None and error_class in refusals and _FLAGGED.search(told):
        error_class = ErrorClass.CONTENT_FILTER
    pause = asked_pause_s(chain(error), told)
    if error_class is ErrorClass.RATE_LIMIT and pause is None and _A_DAY.search(told):
        error_class = ErrorClass.QUOTA  # none of the next attempts will pass
    refused = status is not None and 400 <= status < 500 and status != 408
    free = refused or _never_sent(error) or unsent
    own = status is not None and status >= 500
    unbilled = own or _without_answer(error, error_class)
    # Without its traceback, which would keep what was asked alive as long as the error.
    cause = error.with_traceback(None)
    return Failure(error_class, detail, pause, free=free, unbilled=unbilled, cause=cause)


def describe(error: BaseException) -> str:
    """The error in one line, without anything that looks like a key and without the value of
    any environment variable that is named like one."""
    name = type(error).__name__
    text = text_of_error(error)
    for variable, value in os.environ.items():
        if len(value) >= 8 and names_secret(variable):
            text = text.replace(value, MASK)
    text = scrub_text(_SECRET.sub(lambda found: f"{found[1] or found[2]}{MASK}", text))
    return f"{name}: {text}"[:_DETAIL_CHARS] if text else name


def _class_of(error: BaseException, status: int | None) -> ErrorClass:
    # A card that can't be built, or tools that it does not take: nothing was sent.
    if isinstance(error, ConfigurationError | RequestError):
        is_key = isinstance(error, MissingKeyError)
        return ErrorClass.AUTH if is_key else ErrorClass.BAD_REQUEST
    for kind, error_class in _BY_CORE:
        if isinstance(error, kind):
            return error_class
    if status is not None:
        return _of_status(status)
    if _refused_by_client(error):
        return ErrorClass.BAD_REQUEST
    if isinstance(error, json.JSONDecodeError | ValidationError):
        return ErrorClass.MALFORMED
    for link in chain(error):
        name = type(link).__name__
        if isinstance(link, TimeoutError) or _TIMEOUT_NAME.search(name):
            return ErrorClass.TIMEOUT
        if _of_connection(link):
            return ErrorClass.CONNECTION
        body = str(getattr(link, "body", ""))[:_READ_CHARS] if "ResponseValidation" in name else ""
        if '"error"' in body:
            return _by_words(body) or ErrorClass.SERVER
        if '"choices"' not in body and (said := _by_words(body)):
            return said
        if isinstance(link, json.JSONDecodeError) or _MALFORMED_NAME.search(name):
            return ErrorClass.MALFORMED
    told = any(hasattr(error, name) for name in ("body", "error", "error_type"))
    if told or type(error) is ValueError:
        said = _by_words(f"{_code(error)} {text_of_error(error)}")
        if said is not None or told:
            return said or ErrorClass.SERVER
    # A client that reads a body that is not what it expects (an HTML page, a missing field)
    # fails like this.
    if isinstance(error, ValueError | KeyError | TypeError | AttributeError | IndexError):
        return ErrorClass.MALFORMED
    return ErrorClass.UNKNOWN


def _names(error: BaseException) -> list[str]:
    """Of the error's class and of those that it is derived from: clients name narrower kinds of
    what they used to raise (``ClientConnectorDNSError``)."""
    return [kind.__name__ for kind in type(error).__mro__]


def _of_connection(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | socket.gaierror | ssl.SSLError):
        return True
    return any(_CONNECTION_NAME.search(name) for name in _names(error))


def _refused_by_client(error: BaseException) -> bool:
    """Whether a provider's own package would not send the request as it is."""
    if isinstance(error, ValidationError):
        return _OF_A_REQUEST.search(error.title) is not None
    return isinstance(error, TypeError) and _UNKNOWN_KEYWORD.search(str(error)) is not None


def _of_refusal(text: str) -> ErrorClass:
    """What a plain refusal is about: the request, unless its words say that it is the model, the
    key or the account."""
    if _NO_SUCH_MODEL.search(text):
        return ErrorClass.NOT_FOUND
    if _NO_MONEY.search(text):
        return ErrorClass.QUOTA
    return ErrorClass.AUTH if _NO_ACCESS.search(text) else ErrorClass.BAD_REQUEST


def _by_words(text: str) -> ErrorClass | None:
    """The class of an error that a provider reports inside a response of status 200."""
    if found := _CODE_IN_TEXT.search(text):
        return _of_status(int(found[1]))
    return next((kind for pattern, kind in _BY_WORDS if pattern.search(text)), None)


def _of_status(status: int) -> ErrorClass:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return ErrorClass.SERVER if status >= 500 else ErrorClass.BAD_REQUEST


def chain(error: BaseException) -> Iterator[BaseException]:
    """An error, then what it was raised from or amid, each once."""
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _status(error: BaseException) -> int | None:
    cause = error.__cause__  # LangChain's own class for Google's error has no status
    for holder in (error, getattr(error, "response", None), cause):
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
    return " ".join(f"code {it}" if isinstance(it, int) else str(it) for it in parts if it)


def text_of_error(error: BaseException) -> str:
    """What an error says in one line; its body, where it says nothing itself."""
    try:
        text = " ".join(str(error)[:_READ_CHARS].split())
    except Exception:
        return "(its text can't be read)"
    body = getattr(error, "body", None)
    if body and _SAYS_NOTHING.fullmatch(text):
        # The client finds no message in a body that is not of OpenAI's form.
        told = body if isinstance(body, str) else json.dumps(body, default=str)
        text = " ".join(f"{text} - {told[:_READ_CHARS]}".split())
    return text


def _told(error: BaseException) -> str:
    """What an error says, and its body."""
    body = getattr(error, "body", None)
    return f"{text_of_error(error)} {str(body)[:_READ_CHARS] if body else ''}"


def _without_answer(error: BaseException, error_class: ErrorClass) -> bool:
    """Whether there was most probably nothing of a model's answer."""
    links = list(chain(error))
    if error_class is ErrorClass.SERVER:
        return True
    if error_class is ErrorClass.CONNECTION:
        return not any(_BROKE_OFF.search(text_of_error(link)) for link in links)
    if error_class is ErrorClass.MALFORMED:  # half an answer is half a JSON; a page is none at all
        return not any(isinstance(link, json.JSONDecodeError) for link in links)
    return False


def _never_sent(error: BaseException) -> bool:
    """Whether the request can't have reached the provider."""
    return any(
        isinstance(link, ConnectionRefusedError | socket.gaierror | ssl.SSLCertVerificationError)
        or not _BEFORE_SENDING.isdisjoint(_names(link))
        for link in chain(error)
    )
