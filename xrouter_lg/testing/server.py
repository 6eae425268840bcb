"""Paid model APIs that cost nothing, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from typing import Any, Self

from xrouter_lg.testing.answers import FaultPlan
from xrouter_lg.testing.completion import FakeModel
from xrouter_lg.testing.dialects import BASE_PATHS
from xrouter_lg.testing.http import HttpConnection, NotHttpError
from xrouter_lg.testing.journal import Bill, Journal, RecordedRequest
from xrouter_lg.testing.payloads import error_body
from xrouter_lg.testing.service import ChatService

_BACKLOG = 4096  # a burst of 1,000 clients must not meet a full accept queue
_START_TIMEOUT_S = 10.0


class FakeProviders:
    """Speaks the APIs of many providers on 127.0.0.1, with faults on demand and its own bill.

    `base_url_of` tells where each is; what a model says is said once, and told by each provider
    in its own words. Use it as a context manager, sync or async; its event loop runs in a thread
    of its own.
    Without `models` it answers to any name. `api_key` makes other keys a 401.
    `keep_requests` limits how many requests are remembered (None: all), never the counts or
    the bill. What each fault is billed is told in `xrouter_lg.testing.faults`.

    Further routes: `GET /v1/models`, `GET /health`, `GET /_stats`.
    """

    def __init__(
        self,
        models: Iterable[FakeModel | str] = (),
        *,
        faults: FaultPlan | None = None,
        default: FakeModel | None = None,
        api_key: str | None = None,
        port: int = 0,
        keep_requests: int | None = None,
    ) -> None:
        self._journal = Journal(keep_requests)
        self._service = ChatService(
            [FakeModel(name=model) if isinstance(model, str) else model for model in models],
            default=default or FakeModel(name="fake"),
            faults=faults or FaultPlan(),
            api_key=api_key,
            journal=self._journal,
        )
        self._port = port
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None

    @property
    def url(self) -> str:
        """Where the server listens, e.g. `http://127.0.0.1:40321`."""
        if self._thread is None:
            name = type(self).__name__
            raise RuntimeError(f"the fake server is not running; use `with {name}()`")
        return f"http://127.0.0.1:{self._port}"

    def base_url_of(self, provider: str) -> str:
        """What a provider's client takes as its base URL; `provider` as in LangChain's
        `init_chat_model`. `openai` answers chat completions and the Responses API, `compatible` is
        a server that speaks OpenAI in part.

        Raises:
            ValueError: a provider that the server can't imitate.
        """
        if provider not in BASE_PATHS:
            known = ", ".join(BASE_PATHS)
            raise ValueError(f"no fake of provider {provider!r}; known: {known}")
        return self.url + BASE_PATHS[provider]

    @property
    def faults(self) -> FaultPlan:
        """The plan in force; setting it, from any thread, starts its call numbers at 0."""
        return self._service.faults

    @faults.setter
    def faults(self, plan: FaultPlan | None) -> None:
        self._service.set_faults(plan or FaultPlan())

    @property
    def requests(self) -> list[RecordedRequest]:
        """Requests for answers so far, refused and faulty ones among them."""
        return self._journal.requests

    @property
    def calls(self) -> dict[str, int]:
        """Requests for answers per model."""
        return self._journal.counts

    @property
    def bill(self) -> Bill:
        """What was billed so far; `bill.totals`, `bill.of("small").totals`."""
        return self._journal.bill

    @property
    def stats(self) -> dict[str, Any]:
        """What `GET /_stats` answers."""
        return self._journal.stats()

    def add_model(self, model: FakeModel) -> None:
        """Add a model, or replace the one of the same name, while the server runs."""
        self._service.add_model(model)

    def clear(self) -> None:
        """Forget requests, counts and bill."""
        self._journal.clear()

    def start(self) -> Self:
        """Listen; after `stop`, on the same port again. OSError if the port is taken."""
        if self._thread is not None:
            raise RuntimeError("the fake server is already running")
        ready = threading.Event()
        self._failure = None
        thread = threading.Thread(
            target=self._run, args=(ready,), name="fake-providers", daemon=True
        )
        thread.start()
        if not ready.wait(_START_TIMEOUT_S):
            raise TimeoutError(f"the fake server did not start within {_START_TIMEOUT_S:g} s")
        if self._failure is not None:
            thread.join()
            raise self._failure
        self._thread = thread
        return self

    def stop(self) -> None:
        """Drop all connections and wait until the thread has ended; harmless if stopped."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    # Starting and stopping take a millisecond and wait for another thread only, so the async
    # form needs no executor, whose thread would outlive the test.
    async def __aenter__(self) -> Self:
        return self.start()

    async def __aexit__(self, *_exc: object) -> None:
        self.stop()

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._main(ready))
        except BaseException as error:
            self._failure = error
            ready.set()

    async def _main(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._serve(HttpConnection(reader, writer)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        listener = await asyncio.start_server(connected, "127.0.0.1", self._port, backlog=_BACKLOG)
        self._port = listener.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        listener.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # One turn of the loop lets the aborted transports close their sockets.
        await asyncio.sleep(0)

    async def _serve(self, connection: HttpConnection) -> None:
        try:
            while (request := await connection.next_request()) is not None:
                if not await self._service.answer(connection, request):
                    break
            await connection.close()
        except NotHttpError as error:
            body = error_body(f"Not HTTP: {error}", "invalid_request_error", None)
            await connection.respond(400, body, headers=[("connection", "close")])
            await connection.close()
        except OSError:
            pass  # the client left: nobody to tell
        finally:
            connection.abort()


class FakeOpenAIServer(FakeProviders):
    """`FakeProviders`, for tests of OpenAI-compatible servers alone."""

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as its base URL."""
        return self.base_url_of("openai")
