"""A response that is made while the client waits: ended when the client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from xrouter_lg.serve.api_errors import ApiError, as_api_error

DONE = b"data: [DONE]\n\n"
_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
    "x-accel-buffering": "no",
}


class ClientLeftError(ApiError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__(499, "the client has closed its connection", code="client_closed")


class Out:
    """What a request is answered through."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        """0 until the head of the response has left."""

    async def json(self, body: Any, headers: Mapping[str, str], status: int = 200) -> None:
        """A whole answer."""
        data = orjson.dumps(body, default=str)
        head = {"content-type": "application/json", "content-length": str(len(data)), **headers}
        await self._start(status, head)
        await self._send({"type": "http.response.body", "body": data})

    async def start_events(self, headers: Mapping[str, str]) -> None:
        """The head of a stream of events."""
        await self._start(200, {**_STREAM_HEADERS, **headers})

    async def events(self, data: bytes) -> None:
        """Some events, framed already."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self, status: int, headers: Mapping[str, str]) -> None:
        self.status = status
        raw = [(name.encode("latin-1"), _safe(value)) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})


def _safe(value: str) -> bytes:
    """A header's value: no line break can get into it, whatever a provider calls its model."""
    text = value.encode("latin-1", "replace")
    return bytes(c if 32 <= c != 127 else 32 for c in text)


def event(data: Any, name: str | None = None) -> bytes:
    """One server-sent event."""
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    return head + b"data: " + orjson.dumps(data, default=str) + b"\n\n"


class LiveResponse(Response):
    """Runs ``answer(out)`` while the client is there. Whatever it raises is told in OpenAI's form:
    as a status while none has been sent, as an event in a stream that has begun. ``ended`` gets
    the status and what was raised."""

    def __init__(
        self,
        answer: Callable[[Out], Coroutine[Any, Any, None]],
        ended: Callable[[int, BaseException | None], None],
        explained: Callable[[BaseException], ApiError] = as_api_error,
    ) -> None:
        super().__init__()
        self._answer, self._ended, self._explained = answer, ended, explained

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        out = Out(send)
        problem: BaseException | None = None
        try:
            await while_connected(self._answer(out), receive)
        except ClientLeftError as error:
            problem, out.status = error, error.status
        except Exception as error:
            problem = error
            told = self._explained(error)
            if out.status == 0:
                await out.json(told.body(), told.headers, told.status)
            else:
                await out.events(event(told.body()))
                await out.end()
        except BaseException as error:
            problem = error
            raise
        finally:
            self._ended(out.status, problem)


async def while_connected(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run ``work`` until it is done or the client leaves; then it is cancelled, and with it the
    call to the worker.

    Raises:
        ClientLeftError: the client has left first.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientLeftError
        task.result()
    finally:
        for each in (task, gone):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _left(receive: Callable[[], Awaitable[Any]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
