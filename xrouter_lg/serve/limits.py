"""What comes in is bounded before it is read: headers, bodies, and how long a body may take."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import orjson
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from xrouter_lg.serve.api_errors import ApiError, bad_request
from xrouter_lg.serve.live import ClientLeftError, Out
from xrouter_lg.serve.settings import ServerSettings


async def read_json(request: Request, settings: ServerSettings) -> Any:
    """The body as JSON.

    Raises:
        ApiError: 400 no JSON, 408 too slow, 413 too large.
    """
    told = request.headers.get("content-length", "")
    most = settings.max_body_bytes
    if told.isdecimal() and int(told) > most:
        raise _too_large(most)
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            while True:
                message: Message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeftError
                body += message.get("body", b"")
                if len(body) > most:
                    raise _too_large(most)
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise ApiError(
            408,
            f"the body did not arrive within {settings.body_timeout_s:g} s",
            code="timeout",
            headers={"connection": "close"},
        ) from None
    try:
        return orjson.loads(bytes(body))
    except orjson.JSONDecodeError as error:
        raise bad_request(f"the body is not JSON: {error}", code="invalid_json") from None


def _too_large(most: int) -> ApiError:
    return ApiError(
        413,
        f"the body is larger than the {most} bytes that this server takes",
        code="request_too_large",
        headers={"connection": "close"},
    )


class HeaderLimit:
    """Refuses requests whose headers are larger than the limit, whatever server reads them."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            size = sum(len(name) + len(value) for name, value in scope["headers"])
            if size + len(scope.get("raw_path", b"")) + len(scope["query_string"]) > self._most:
                error = ApiError(431, f"headers are larger than {self._most} bytes")
                await Out(send).json(error.body(), {"connection": "close"}, error.status)
                return
        await self._app(scope, receive, send)


def limited_protocol(most: int, seconds: float, unread_s: float) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, for a client whose headers never end or never come, or that never reads:
    the parser keeps all of them in memory, an answer waits for its reader, and neither sets a
    limit. What is no HTTP/1.1 is told so as everything else is."""

    class LimitedProtocol(HttpToolsProtocol):
        head: int | None = None
        """Bytes of a head that is not complete, less the read that it began in; else None."""
        waiting: asyncio.TimerHandle | None = None
        unread: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def pause_writing(self) -> None:
            """More waits to be read than the connection holds."""
            self.unread = self.loop.call_later(unread_s, self.transport.abort)
            super().pause_writing()

        def resume_writing(self) -> None:
            self._is_read()
            super().resume_writing()

        def _is_read(self) -> None:
            if self.unread is not None:
                self.unread.cancel()
                self.unread = None

        def connection_lost(self, exc: Exception | None) -> None:
            self._wait_no_more()
            self._is_read()
            super().connection_lost(exc)

        def on_message_begin(self) -> None:
            self.head = 0
            if self.waiting is None:
                self._wait()
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self.head = None
            self._wait_no_more()
            super().on_headers_complete()

        def data_received(self, data: bytes) -> None:
            begun = self.head is not None
            super().data_received(data)
            if self.head is None or not begun:
                return  # of the read in which a head began, a body may be the larger part
            self.head += len(data)
            if self.head > most:
                self._refuse(ApiError(431, f"headers are larger than {most} bytes"))

        def send_400_response(self, msg: str) -> None:
            self._refuse(bad_request("this is no valid HTTP/1.1 request", code="invalid_http"))

        def _wait(self) -> None:
            self.waiting = self.loop.call_later(seconds, self._too_slow)

        def _wait_no_more(self) -> None:
            if self.waiting is not None:
                self.waiting.cancel()
                self.waiting = None

        def _too_slow(self) -> None:
            if self.head is None:  # nothing was sent at all
                self.transport.close()
                return
            said = f"the headers did not arrive within {seconds:g} s"
            self._refuse(ApiError(408, said, code="timeout"))

        def _refuse(self, error: ApiError) -> None:
            """The error as the connection's last words; silence where an answer is under way."""
            self._wait_no_more()
            if self.transport.is_closing():
                return
            cycle = self.cycle
            idle = cycle is None or cycle.response_complete or not cycle.response_started
            if idle and not self.pipeline:
                body = orjson.dumps(error.body())
                self.transport.write(
                    f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\n"
                    "connection: close\r\ncontent-type: application/json\r\n"
                    f"content-length: {len(body)}\r\n\r\n".encode()
                    + body
                )
            self.transport.close()

    return LimitedProtocol
