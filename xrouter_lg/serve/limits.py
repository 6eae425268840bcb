"""What comes in is bounded before it is read: headers, bodies, and how long a body may take."""

from __future__ import annotations

import asyncio
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


def limited_protocol(most: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol, for a client that never ends its headers: the parser keeps all of them
    in memory and sets no limit."""

    class LimitedProtocol(HttpToolsProtocol):
        head: int | None = 0
        """Bytes of a head that is not complete; None behind it."""

        def on_message_begin(self) -> None:
            self.head = 0
            super().on_message_begin()

        def on_headers_complete(self) -> None:
            self.head = None
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            super().on_message_complete()
            self.head = 0

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.head is None:
                return
            self.head += len(data)
            if self.head > most and not self.transport.is_closing():
                body = orjson.dumps(ApiError(431, f"headers are larger than {most} bytes").body())
                self.transport.write(
                    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n"
                    b"content-type: application/json\r\ncontent-length: "
                    + str(len(body)).encode()
                    + b"\r\n\r\n"
                    + body
                )
                self.transport.close()

    return LimitedProtocol
