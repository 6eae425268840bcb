"""Manners towards a shared service: never faster than allowed, patient when told to wait, and
its key is shown to nobody else."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import requests
from tenacity import RetryCallState, Retrying, retry_if_result

from xrouter_lg.calls.failures import chain
from xrouter_lg.calls.pauses import backoff_s, retry_after_s
from xrouter_lg.errors import XRouterError
from xrouter_lg.langsmith.errors import (
    AccessDeniedError,
    LangSmithIntegrationError,
    LangSmithRefusedError,
    UnreachableError,
    UnreadableAnswerError,
)
from xrouter_lg.tracing.runs.redact import known_secrets, scrub_text

T = TypeVar("T")

_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""Statuses of failures that may be over a moment later."""

_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, OverflowError)
"""What the clients raise of an answer that is not what they asked for."""

_LONGEST_ASKED_S = 300.0
"""A server that asks for a longer pause is given up on."""

_KEYS = ("x-api-key", "x-service-key", "x-service-jwt-token", "authorization")
"""Headers with a key. Clients take only the last off a request that is redirected elsewhere."""

_DETAIL = 300
"""Characters of a server's own words that a message quotes."""


class RateLimit:
    """At most ``requests`` within any ``seconds``: :meth:`wait` sleeps as long as that takes."""

    def __init__(
        self,
        requests: int,
        seconds: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.requests, self.seconds = requests, seconds
        self._clock, self._sleep = clock, sleep
        self._sent: deque[float] = deque()

    def wait(self) -> None:
        """Return when one more request may be sent; it counts as sent."""
        while len(self._sent) >= self.requests:
            left = self._sent[0] + self.seconds - self._clock()
            if left <= 0:
                self._sent.popleft()
            else:
                self._sleep(left)
        self._sent.append(self._clock())


class FailedRequest(NamedTuple):
    """What a client's exception says about a request."""

    status: int | None
    """None where no answer came."""
    retry_after_s: float | None
    detail: str


class Patience:
    """Makes a request until it succeeds or patience runs out.

    Told how long to wait (``Retry-After``), it waits that long and a little more, so that many
    clients don't come back at once; otherwise it doubles the wait from ``first_wait_s``, with
    jitter. ``on_wait`` hears the seconds and the reason before each wait.
    """

    def __init__(
        self,
        *,
        attempts: int = 8,
        first_wait_s: float = 0.5,
        longest_wait_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
        on_wait: Callable[[float, str], None] | None = None,
    ) -> None:
        self.attempts, self.first_wait_s = attempts, first_wait_s
        self.longest_wait_s, self.on_wait = longest_wait_s, on_wait
        self._sleep = sleep
        self._answered = False
        """A server that never answered is more likely a wrong address than a busy one."""

    def call(self, request: Callable[[], T], *, what: str, where: str) -> T:
        """The request's result.

        Raises:
            AccessDeniedError: 401 or 403.
            UnreachableError: no answer, or a passing failure too often.
            LangSmithRefusedError: any other status.
            UnreadableAnswerError: an answer of another shape than the client expects.
        """

        def give_up(state: RetryCallState) -> T:
            # Here the client's exception is no more: its messages hold the ends of the key.
            raise as_error(_failure(state), what=what, where=where, attempts=state.attempt_number)

        asking = Retrying(
            retry=retry_if_result(lambda result: isinstance(result, FailedRequest)),
            stop=lambda state: self._wait_s(_failure(state), state.attempt_number) is None,
            wait=lambda state: self._wait_s(_failure(state), state.attempt_number) or 0.0,
            before_sleep=self._tell,
            sleep=self._sleep,
            retry_error_callback=give_up,
        )
        try:
            result: T | FailedRequest = asking(self._attempt, request)
        except Exception as error:
            known = isinstance(error, _UNREADABLE) or _is_clients(error)
            if isinstance(error, XRouterError) or not known:
                raise
            # Without the client's exception, which may repeat all that came.
            raise unreadable(what, where, f"{type(error).__name__}: {error}") from None
        assert not isinstance(result, FailedRequest)
        return result

    def _attempt(self, request: Callable[[], T]) -> T | FailedRequest:
        try:
            result = request()
        except LangSmithIntegrationError:
            raise
        except Exception as error:
            failure = failure_of(error)
            if failure is None:
                raise
            self._answered |= failure.status is not None
            return failure
        self._answered = True
        return result

    def _tell(self, state: RetryCallState) -> None:
        if self.on_wait is not None:
            self.on_wait(state.upcoming_sleep, _why(_failure(state)))

    def _wait_s(self, failure: FailedRequest, attempt: int) -> float | None:
        """Seconds until the next attempt, None when there is none."""
        attempts = self.attempts if self._answered else min(3, self.attempts)
        if attempt >= attempts or (failure.status or 503) not in _PASSING:
            return None
        asked = failure.retry_after_s
        if asked is not None:
            return None if asked > _LONGEST_ASKED_S else asked + random.uniform(0, 0.25)
        return backoff_s(attempt, first_s=self.first_wait_s, longest_s=self.longest_wait_s)


def _failure(state: RetryCallState) -> FailedRequest:
    """What the attempt that has just ended came to."""
    assert state.outcome is not None
    failure = state.outcome.result()
    assert isinstance(failure, FailedRequest)
    return failure


def failure_of(error: BaseException) -> FailedRequest | None:
    """What a LangSmith client's exception, of either API, says; None if it is something else."""
    links = list(chain(error))
    for link in links:
        response = getattr(link, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int):
            headers: Mapping[str, str] = getattr(response, "headers", {})
            return FailedRequest(status, retry_after_s(headers), _said(response))
    if not _is_clients(error):
        return None
    if "NotFound" in type(error).__name__:  # raised without a response: an empty list of projects
        return FailedRequest(404, None, "not found")
    if not any(_is_connection(link) for link in links):
        return None
    for link in reversed(links):
        if isinstance(link, OSError) and link.strerror:
            return FailedRequest(None, None, link.strerror)
    return FailedRequest(None, None, _scrubbed(type(links[-1]).__name__))


def as_error(
    failure: FailedRequest, *, what: str, where: str, attempts: int = 1
) -> LangSmithIntegrationError:
    """The failure in this integration's own words."""
    said = f" It said: {failure.detail}" if failure.detail else ""
    if failure.status == 401:
        return AccessDeniedError(
            f"{where} does not know the API key (HTTP 401, {what}). Check LANGSMITH_API_KEY: is it "
            "complete, not revoked, and of this region or installation (LANGSMITH_ENDPOINT)?"
        )
    if failure.status == 403:
        return AccessDeniedError(
            f"the API key may not do this at {where} (HTTP 403, {what}). Ask a workspace admin for "
            "the permission, or set LANGSMITH_WORKSPACE_ID if the key belongs to an organisation "
            f"with several workspaces.{said}"
        )
    if failure.status is None:
        return UnreachableError(
            f"{where} can't be reached ({what}): {failure.detail}, after {attempts} attempt(s). "
            "Check the network and LANGSMITH_ENDPOINT. What was finished is kept; run it again "
            "to continue."
        )
    if failure.status in _PASSING:
        asked = failure.retry_after_s
        later = f" It asks to come back in {asked:.0f} s." if asked else ""
        return UnreachableError(
            f"{where} is busy or failing: HTTP {failure.status} ({what}) after {attempts} "
            f"attempt(s).{later} What was finished is kept; run it again later to continue.{said}"
        )
    return LangSmithRefusedError(
        f"{where} refused a request: HTTP {failure.status} ({what}).{said}", failure.status
    )


def unreadable(what: str, where: str, why: str) -> UnreadableAnswerError:
    """The error of an answer that is none."""
    return UnreadableAnswerError(
        f"{where} gave no usable answer ({what}): {_scrubbed(why)}. Is it LangSmith, or a proxy "
        "before it? Check LANGSMITH_ENDPOINT. What was finished is kept; run it again to continue."
    )


def _why(failure: FailedRequest) -> str:
    if failure.status == 429:
        return "rate limit"
    return failure.detail if failure.status is None else f"HTTP {failure.status}"


def _is_clients(error: BaseException) -> bool:
    """Whether an exception is of the clients' own packages."""
    ours = ("langsmith", "requests", "urllib3", "httpx", "httpcore", "httpx2", "httpcore2")
    return type(error).__module__.partition(".")[0] in ours


def _is_connection(error: BaseException) -> bool:
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, OSError) or bool(
        names & {"APIConnectionError", "LangSmithConnectionError", "TransportError"}
    )


def _said(response: Any) -> str:
    try:
        data = response.json()
    except Exception:
        return _scrubbed(str(getattr(response, "text", "")))
    if isinstance(data, Mapping):
        data = data.get("detail") or data.get("message") or data.get("error") or data
    return _scrubbed(str(data))


def _scrubbed(text: str) -> str:
    text = scrub_text(" ".join(text.split()), known_secrets())
    return text if len(text) <= _DETAIL else text[:_DETAIL] + "..."


class KeptKeySession(requests.Session):
    """A session that takes the key along to no other host."""

    def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
        super().rebuild_auth(prepared_request, response)
        if self.should_strip_auth(response.request.url, prepared_request.url):
            for name in _KEYS:
                prepared_request.headers.pop(name, None)


def keep_key_here(api: Any) -> None:
    """The same for the client of the second API, where it has what that takes."""
    http, home = getattr(api, "_client", None), str(getattr(api, "base_url", ""))
    hooks = getattr(http, "event_hooks", None)
    if not isinstance(hooks, dict):
        return
    origin = _origin(home)

    async def kept(request: Any) -> None:
        if _origin(str(request.url)) != origin:
            for name in _KEYS:
                request.headers.pop(name, None)

    # Of httpx's own: it is asked before every request, each step of a redirect among them.
    http.event_hooks = {**hooks, "request": [*hooks.get("request", ()), kept]}  # type: ignore[union-attr]


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port
