"""Event loops in threads of their own, for callers that are not async."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_starting = threading.Lock()


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


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from a thread that may or may not have an event loop.

    The caller's context variables (LangChain's callbacks, LangGraph's config) are seen by the
    coroutine. Ctrl-C in the waiting thread cancels it.
    """
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

    def start() -> None:
        nonlocal task
        task = loop.create_task(run(), context=context)

    loop.call_soon_threadsafe(start)
    try:
        return done.result()
    except BaseException:
        if not done.done():
            loop.call_soon_threadsafe(lambda: task.cancel() if task is not None else None)
        raise


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
