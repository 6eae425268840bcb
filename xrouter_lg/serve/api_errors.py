"""What goes wrong, in OpenAI's form: a status, and ``{"error": {message, type, param, code}}``.

Messages are the package's own, of which whatever looks like a key has been removed; an error that
nobody foresaw is a 500 without its text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from xrouter_lg.calls.failures import describe
from xrouter_lg.errors import (
    AllCandidatesFailedError,
    BudgetExceededError,
    BudgetStoreError,
    ErrorClass,
    NoCandidateError,
    RequestError,
    StreamInterruptedError,
    XRouterError,
)

logger = logging.getLogger(__name__)

_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_PASSING = frozenset({ErrorClass.RATE_LIMIT, ErrorClass.CIRCUIT_OPEN})


class ApiError(XRouterError):
    """An answer that is an error; ``status`` is HTTP's."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """What the client reads."""
        known = _TYPES.get(self.status)
        kind = known or ("server_error" if self.status >= 500 else "invalid_request_error")
        return {
            "error": {
                "message": self.message,
                "type": "insufficient_quota" if self.code == "insufficient_quota" else kind,
                "param": self.param,
                "code": self.code,
            }
        }


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A request that no worker needs to see."""
    return ApiError(400, message, param=param, code=code)


def out_of_budget() -> ApiError:
    """The key's own budget, not the request's, is used up."""
    return ApiError(
        429,
        "this key's budget does not cover the request; wait for its next period, or ask for a "
        "higher budget",
        code="insufficient_quota",
    )


def _of_shared_limit(error: BudgetExceededError) -> ApiError:
    return ApiError(
        429,
        f"the limit per {error.per} does not cover the request; wait for its next period"
        if error.per != "all"
        else "this server's limit does not cover the request; wait for its next period",
        code="insufficient_quota",
    )


def as_api_error(error: BaseException) -> ApiError:
    """The answer for whatever was raised."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, BudgetExceededError):
        if error.per is None:
            return bad_request(str(error), code="budget_exceeded")
        return out_of_budget() if error.per == "key" else _of_shared_limit(error)
    if isinstance(error, BudgetStoreError):
        logger.error("a request was refused: %s", describe(error))
        return ApiError(
            503,
            "what has been spent can't be looked up now, so that no call is made",
            code="budget_unavailable",
            headers={"retry-after": "1"},
        )
    if isinstance(error, NoCandidateError):
        return bad_request(str(error), code="no_candidate")
    if isinstance(error, RequestError):
        return bad_request(str(error))
    if isinstance(error, AllCandidatesFailedError):
        return _of_attempts(error)
    if isinstance(error, StreamInterruptedError):
        return ApiError(502, str(error), code="stream_interrupted")
    if isinstance(error, TimeoutError):
        return ApiError(504, "no answer within the time that this server allows", code="timeout")
    logger.error("a request ended with %s", describe(error))
    return ApiError(500, "the server could not answer; its log says why", code="internal_error")


def _of_attempts(error: AllCandidatesFailedError) -> ApiError:
    """One status for what several cards said: the request's own fault only where all say so."""
    seen = {str(attempt.get("error")) for attempt in error.attempts} - {ErrorClass.BUDGET}
    text = str(error)
    if seen == {ErrorClass.CONTEXT_LENGTH}:
        return bad_request(text, "messages", "context_length_exceeded")
    if seen == {ErrorClass.CONTENT_FILTER}:
        return bad_request(text, code="content_filter")
    if seen and seen <= {ErrorClass.BAD_REQUEST, ErrorClass.CONTEXT_LENGTH}:
        return bad_request(text)
    if seen and seen <= _PASSING:
        status = 429 if ErrorClass.RATE_LIMIT in seen else 503
        return ApiError(status, text, code="workers_busy", headers={"retry-after": "1"})
    if seen == {ErrorClass.TIMEOUT}:
        return ApiError(504, text, code="timeout")
    return ApiError(502, text, code="workers_failed")
