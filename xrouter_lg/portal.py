"""Event loops in threads of their own, for callers that are not async."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from typing import Any, TypeVar, cast

T = TypeVar("T")

_starting = threading.Lock()
_STOP_WITHIN_S = 5.0
"""How long something that was cancelled may take to end."""


class LoopThread:
    """An event loop that a daemon thread runs: started when it is first asked for, and again in a
    forked child, which inherits the object but not the thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._running: tuple[int, asyncio.AbstractEventLoop] | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        running = self._running
        if running is None or running[0] != os.getpid() or running[1].is_closed():
            with _starting:
                running = self._running
                if running is None or running[0] != os.getpid() or running[1].is_closed():
                    running = self._running = os.getpid(), asyncio.new_event_loop()
                    threading.Thread(
                        target=running[1].run_forever, name=self._name, daemon=True
                    ).start()
        return running[1]


_portal = LoopThread("xrouter-portal")


class Ending:
    """The end of something that threads work for: it stops what they wait for. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: set[Callable[[], object]] = set()
        self.over = False
        """Whether it has come."""

    @contextmanager
    def stopping(self, stop: Callable[[], object]) -> Iterator[None]:
        """Have ``stop`` called should the end come meanwhile, or at once where it has come."""
        with self._lock:
            self._stops.add(stop)
            over = self.over
        try:
            if over:
                stop()
            yield
        finally:
            with self._lock:
                self._stops.discard(stop)

    def come(self) -> None:
        """The end is here."""
        with self._lock:
            self.over = True
            stops = list(self._stops)
        for stop in stops:
            stop()


def run_sync(coroutine: Coroutine[Any, Any, T], endings: Sequence[Ending] = ()) -> T:
    """Run a coroutine to its end from a thread that may or may not have an event loop.

    The caller's context variables (LangChain's callbacks, LangGraph's config) are seen by the
    coroutine. Ctrl-C in the waiting thread cancels it, and waits until it has said what it cost.
    Any of ``endings`` cancels it too.

    Raises:
        asyncio.CancelledError: one of ``endings`` has come.
    """
    if any(ending.over for ending in endings):
        coroutine.close()
        raise asyncio.CancelledError
    loop = _portal.loop
    if _inside(loop):
        # The portal's own thread asks (a policy that runs a sync graph): waiting for itself
        # would never end.
        with concurrent.futures.ThreadPoolExecutor(1, "xrouter-nested") as thread:
            return thread.submit(contextvars.copy_context().run, asyncio.run, coroutine).result()
    context = contextvars.copy_context()
    done: concurrent.futures.Future[T] = concurrent.futures.Future()
    task: asyncio.Task[None] | None = None

    async def run() -> None:
        # Nothing may leave this task: a SystemExit would take the loop's thread with it, and
        # everybody who waits for it would wait for ever.
        try:
            result = await coroutine
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(result)

    def never_began(_: asyncio.Task[None]) -> None:
        if not done.done():  # cancelled before its first step
            coroutine.close()
            done.set_exception(asyncio.CancelledError())

    def start() -> None:
        nonlocal task
        task = loop.create_task(run(), context=context)
        task.add_done_callback(never_began)

    def stop() -> None:
        loop.call_soon_threadsafe(lambda: task.cancel() if task is not None else None)

    loop.call_soon_threadsafe(start)
    try:
        with ExitStack() as watched:
            for ending in endings:
                watched.enter_context(ending.stopping(stop))
            return done.result()
    except BaseException:
        if not done.done():
            stop()
            concurrent.futures.wait([done], _STOP_WITHIN_S)
        raise


def iterate_sync(
    source: Callable[[], AsyncIterator[T]], endings: Sequence[Ending] = ()
) -> Iterator[T]:
    """What an async iterator gives, for a thread that may or may not have an event loop: as it
    comes. The iterator is made, run and closed in one task; leaving the loop early ends it, and so
    does any of ``endings``, as in :func:`run_sync`."""
    items: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
    stop: list[Callable[[], object]] = []
    begun = threading.Event()

    async def pump() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        stop.append(lambda: loop.call_soon_threadsafe(task.cancel))
        begun.set()
        async with aclosing(cast("Any", source())) as parts:
            async for part in parts:
                items.put((True, part))

    # The portal's own thread, which waits here, can't run it.
    inside = _inside(_portal.loop)

    def run() -> None:
        try:
            if inside:
                asyncio.run(pump())
            else:
                run_sync(pump(), endings)
        except BaseException as error:
            items.put((False, error))
        else:
            items.put((False, None))

    thread = threading.Thread(
        target=contextvars.copy_context().run, args=(run,), name="xrouter-stream", daemon=True
    )
    thread.start()
    try:
        while True:
            more, item = items.get()
            if more:
                yield item
                continue
            if item is not None:
                raise item
            return
    finally:
        if thread.is_alive() and begun.wait(_STOP_WITHIN_S):
            stop[0]()
            thread.join(_STOP_WITHIN_S)


def _inside(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork

    def _after_fork() -> None:
        global _starting
        _starting = threading.Lock()  # it may have been held

    os.register_at_fork(after_in_child=_after_fork)
