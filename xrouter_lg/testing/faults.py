"""What can go wrong with a model API, as values: each function here makes one `Fault`.

Where a fault acts decides what it costs, as with a real provider:

=====================  ==========================================================  =============
faults                 what the client sees                                        billed
=====================  ==========================================================  =============
rate_limit             429 with Retry-After                                        nothing
server_error           500, 502, 503, 504 or 529                                   nothing
bad_request            400                                                         nothing
auth_error             401                                                         nothing
error_in_answer        200 whose body is an error                                  nothing
html_page              a page of HTML with any status                              nothing
reset                  connection reset before the headers                         nothing
hang                   silence, then the connection closes                         nothing
empty                  200 with no text                                            the prompt
truncated              half the text, `finish_reason="length"`                     what was sent
content_filter         half the text, `finish_reason="content_filter"`             what was sent
wrong_model            another model's name in the response                        everything
missing_usage          no usage block                                              everything
malformed_json         200, but the JSON breaks off                                everything
slow_stream            a pause before every chunk (at once if not streamed)        everything
cut_stream             connection closes after n tokens, no `[DONE]`               tokens sent
stream_error           error event after n tokens (500 if not streamed)            tokens sent
=====================  ==========================================================  =============

"Tokens sent" always includes the whole prompt. Without `stream`, `cut_stream` closes the
connection in the middle of the body and everything is billed, while `stream_error` is a 500
and nothing is. A client that goes away is billed too: all of it without `stream`, since the
model ran; the tokens written before the server noticed with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime

from xrouter_lg.testing.completion import Completion
from xrouter_lg.testing.payloads import error_body


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong; build it with the functions of this module."""

    kind: str
    """Its name in requests, bill and stats."""


@dataclass(frozen=True, kw_only=True)
class ErrorAnswer(Fault):
    """The request gets this response instead of a completion."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class NoAnswer(Fault):
    """The connection ends without a byte: after `seconds`, by a reset or a plain close."""

    seconds: float = 0.0
    reset: bool = False


@dataclass(frozen=True, kw_only=True)
class ChangedAnswer(Fault):
    """A well-formed response with something else in it."""

    change: Callable[[Completion], Completion]


@dataclass(frozen=True, kw_only=True)
class BrokenTransfer(Fault):
    """The right answer, sent badly."""

    pause_s: float = 0.0
    """Before every chunk."""
    stop_after: int | None = None
    """Tokens sent before the transfer ends early; None: it does not."""
    clean: bool = False
    """The body ends as if it were whole; else the connection breaks."""
    error_event: bytes | None = None
    """Sent where the transfer ends early."""
    garbled: bool = False
    """The JSON breaks off."""


def rate_limit(
    retry_after: float | datetime | str | None = None, *, insufficient_quota: bool = False
) -> Fault:
    """429; `retry_after` in seconds, as a moment (sent as an HTTP date), or as it is sent.

    `insufficient_quota` is the code of a spent account, which no waiting repairs.
    """
    if isinstance(retry_after, datetime):
        retry_after = format_datetime(retry_after.astimezone(UTC), usegmt=True)
    headers = () if retry_after is None else (("retry-after", str(retry_after)),)
    code = "insufficient_quota" if insufficient_quota else "rate_limit_exceeded"
    kind = code if insufficient_quota else "requests"
    body = error_body("Rate limit reached (fake).", kind, code)
    return ErrorAnswer(kind="rate_limit", status=429, body=body, headers=headers)


def server_error(status: int = 500) -> Fault:
    """A server error, 500 to 599."""
    if not 500 <= status <= 599:
        raise ValueError(f"status={status!r} is not a server error; use 500 to 599")
    body = error_body("The server had an error (fake).", "server_error", None)
    return ErrorAnswer(kind=f"server_error_{status}", status=status, body=body)


def bad_request(code: str = "invalid_request_error") -> Fault:
    """400 with OpenAI's error code, e.g. `context_length_exceeded`."""
    body = error_body(f"Bad request: {code} (fake).", "invalid_request_error", code)
    return ErrorAnswer(kind="bad_request", status=400, body=body)


def auth_error() -> Fault:
    """401 with the code `invalid_api_key`."""
    body = error_body("Incorrect API key (fake).", "invalid_request_error", "invalid_api_key")
    return ErrorAnswer(kind="auth_error", status=401, body=body)


def error_in_answer() -> Fault:
    """200 whose body is an error, as gateways send when the model behind them failed."""
    body = error_body("The provider returned an error (fake).", "server_error", "502")
    return ErrorAnswer(kind="error_in_answer", status=200, body=body)


def html_page(status: int = 200) -> Fault:
    """A proxy's page of HTML in place of JSON; with 200 no client takes it for an error."""
    body = f"<html><body><h1>{status} from a gateway (fake)</h1></body></html>".encode()
    return ErrorAnswer(kind="html_page", status=status, body=body, content_type="text/html")


def reset() -> Fault:
    """The connection is reset (RST) once the request has been read."""
    return NoAnswer(kind="reset", reset=True)


def hang(seconds: float = 3600.0) -> Fault:
    """Silence for `seconds`, then the connection closes; ends early when the client leaves."""
    return NoAnswer(kind="hang", seconds=seconds)


def empty() -> Fault:
    """200 with empty content and no tool calls."""
    return ChangedAnswer(kind="empty", change=Completion.emptied)


def truncated(keep: int | None = None) -> Fault:
    """Only the first `keep` tokens (left out: half), `finish_reason="length"`."""
    return _shortened("truncated", keep, "length")


def content_filter(keep: int | None = None) -> Fault:
    """Only the first `keep` tokens (left out: half), `finish_reason="content_filter"`."""
    return _shortened("content_filter", keep, "content_filter")


def wrong_model(served: str = "another-model") -> Fault:
    """The response names another model than the one asked for."""
    return ChangedAnswer(kind="wrong_model", change=lambda it: replace(it, served_model=served))


def missing_usage() -> Fault:
    """No usage block, streamed or not."""
    return ChangedAnswer(kind="missing_usage", change=lambda it: replace(it, show_usage=False))


def malformed_json() -> Fault:
    """200 with JSON that breaks off; in a stream, the first event does."""
    return BrokenTransfer(kind="malformed_json", garbled=True)


def slow_stream(delay: float = 0.1) -> Fault:
    """`delay` seconds before every chunk; without `stream`, all of them before the answer."""
    return BrokenTransfer(kind="slow_stream", pause_s=delay)


def cut_stream(after_chunks: int = 1, *, clean: bool = False) -> Fault:
    """The connection closes after `after_chunks` tokens, without a finish or `[DONE]`.

    `clean`: the HTTP body ends properly, as behind a proxy, and only what it says is cut.
    """
    return BrokenTransfer(kind="cut_stream", stop_after=after_chunks, clean=clean)


def stream_error(after_chunks: int = 1) -> Fault:
    """After `after_chunks` tokens comes an error event in their place."""
    event = error_body("The model failed while answering (fake).", "server_error", None)
    return BrokenTransfer(kind="stream_error", stop_after=after_chunks, error_event=event)


def _shortened(kind: str, keep: int | None, finish_reason: str) -> Fault:
    def change(completion: Completion) -> Completion:
        count = len(completion.pieces)
        return completion.truncated((count + 1) // 2 if keep is None else keep, finish_reason)

    return ChangedAnswer(kind=kind, change=change)
