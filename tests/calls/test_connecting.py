"""Calls that end on the way to a provider: names, certificates and proxies, by two clients."""

from __future__ import annotations

import asyncio
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator

import aiohttp
import httpx
import pytest
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from xrouter_lg.calls.failures import UNHEALTHY, Failure, classify
from xrouter_lg.errors import ErrorClass

NOWHERE = "xrouter-no-such-host.invalid"


class PlainAnswer(socketserver.BaseRequestHandler):
    """A proxy that wants a password; no TLS server either."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n"
            b"Content-Length: 0\r\nConnection: close\r\n\r\n"
        )


@pytest.fixture(scope="module")
def proxy() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), PlainAnswer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def by_openai(url: str, proxy: str | None = None) -> Failure:
    with httpx.Client(proxy=f"http://{proxy}" if proxy else None, trust_env=False) as http:
        client = ChatOpenAI(
            model="m",
            api_key=SecretStr("k"),
            base_url=url,
            max_retries=0,
            http_client=http,
            timeout=10,
        )
        with pytest.raises(Exception) as caught:
            client.invoke("hi")
    return classify(caught.value)


def by_aiohttp(url: str, proxy: str | None = None) -> Failure:
    async def ask() -> None:
        limit = aiohttp.ClientTimeout(10)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.post(url, proxy=f"http://{proxy}" if proxy else None) as answer,
        ):
            answer.raise_for_status()

    with pytest.raises(aiohttp.ClientError) as caught:
        asyncio.run(ask())
    return classify(caught.value)


Ask = Callable[..., Failure]
BY_EITHER = pytest.mark.parametrize("ask", [by_openai, by_aiohttp])


@BY_EITHER
def test_a_name_that_nobody_knows_is_a_connection_that_cost_nothing(ask: Ask) -> None:
    failure = ask(f"http://{NOWHERE}/v1")
    assert (failure.error_class, failure.free) == (ErrorClass.CONNECTION, True)


@BY_EITHER
def test_so_is_a_server_that_speaks_no_tls(ask: Ask, proxy: str) -> None:
    failure = ask(f"https://{proxy}/v1")
    assert (failure.error_class, failure.free) == (ErrorClass.CONNECTION, True)


@BY_EITHER
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_wants_a_password_costs_nothing_and_counts(
    ask: Ask, scheme: str, proxy: str
) -> None:
    failure = ask(f"{scheme}://{NOWHERE}/v1", proxy)
    assert failure.free
    assert failure.error_class in UNHEALTHY


@pytest.mark.parametrize(
    ("error", "free"),
    [
        (socket.gaierror(-2, "Name or service not known"), True),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), True),
        (ssl.SSLError(1, "decryption failed or bad record mac"), False),
        (aiohttp.ClientOSError(104, "Connection reset by peer"), False),
        (aiohttp.ClientPayloadError("Response payload is not completed"), False),
    ],
    ids=lambda it: type(it).__name__ if isinstance(it, Exception) else str(it),
)
def test_what_breaks_below_http_is_a_connection(error: Exception, free: bool) -> None:
    failure = classify(error)
    assert (failure.error_class, failure.free) == (ErrorClass.CONNECTION, free)
