"""One HTTP/1.1 connection: asyncio for the socket, h11 for the grammar.

A web framework would hide exactly what the faults need: resetting the socket, closing it in
the middle of a body, saying nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass

import h11

from xrouter_lg.errors import XRouterError

_READ_SIZE = 65536


@dataclass(frozen=True)
class HttpRequest:
    """A request, fully read."""

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> str | None:
        """A header's value; `name` in lower case."""
        for key, value in self.headers:
            if key == name:
                return value.decode("latin-1")
        return None


class NotHttpError(XRouterError):
    """What came over the socket is not HTTP."""


class HttpConnection:
    """Reads requests and writes responses on one keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER)

    @property
    def client_gone(self) -> bool:
        """The client has closed its end."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def next_request(self) -> HttpRequest | None:
        """The next request, or None when the connection is over."""
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
        if self._http.our_state is not h11.IDLE:
            return None
        try:
            head = await self._event()
            if not isinstance(head, h11.Request):
                return None
            body = bytearray()
            while not isinstance(event := await self._event(), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    return None
                body += event.data
        except h11.RemoteProtocolError as error:
            raise NotHttpError(str(error)) from error
        return HttpRequest(
            method=head.method.decode("ascii"),
            path=head.target.decode("ascii").partition("?")[0],
            headers=tuple(head.headers),
            body=bytes(body),
        )

    async def respond(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "application/json",
        headers: Iterable[tuple[str, str]] = (),
        send_bytes: int | None = None,
    ) -> None:
        """Write a whole response, or only the first `send_bytes` of its body."""
        fields = [("content-type", content_type), ("content-length", str(len(body))), *headers]
        data = self._send(h11.Response(status_code=status, headers=fields, reason=b""))
        if send_bytes is None:
            data += self._send(h11.Data(data=body)) + self._send(h11.EndOfMessage())
        else:
            data += self._send(h11.Data(data=body[:send_bytes]))
        await self._write(data)

    async def start_stream(self, first: bytes, content_type: str) -> None:
        """Write the head of a stream, and its first event."""
        fields = [("content-type", content_type)]
        head = self._send(h11.Response(status_code=200, headers=fields, reason=b"OK"))
        await self._write(head + (self._send(h11.Data(data=first)) if first else b""))

    async def send_event(self, event: bytes) -> None:
        """Write one more event."""
        if event:
            await self._write(self._send(h11.Data(data=event)))

    async def end_stream(self) -> None:
        """Finish the event stream; the connection may go on."""
        await self._write(self._send(h11.EndOfMessage()))

    async def wait_for_client_to_leave(self, seconds: float) -> None:
        """Do nothing until the client closes its end, or `seconds` have passed."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while await self._reader.read(_READ_SIZE):
                    pass

    def reset(self) -> None:
        """Drop the connection with an RST."""
        raw: socket.socket | None = self._writer.get_extra_info("socket")
        if raw is not None:
            # Lingering for zero seconds turns close into a reset.
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection once everything written has left."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def abort(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()

    async def _event(self) -> object:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._write(self._send(go_on))
            self._http.receive_data(await self._reader.read(_READ_SIZE))
        return event

    def _send(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
