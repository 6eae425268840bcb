"""One event loop in a thread of its own, for callers that are not async."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_owner_pid: int | None = None


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from a thread that may or may not have an event loop.

    The caller's context variables (LangChain's callbacks, LangGraph's config) are seen by the
    coroutine. Ctrl-C in the waiting thread cancels it.
    """
    loop = _running_loop()
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


def _running_loop() -> asyncio.AbstractEventLoop:
    global _loop, _owner_pid
    with _lock:
        # A forked child inherits the object but not the thread that runs it.
        if _loop is None or _loop.is_closed() or _owner_pid != os.getpid():
            _loop, _owner_pid = asyncio.new_event_loop(), os.getpid()
            threading.Thread(target=_loop.run_forever, name="xrouter-portal", daemon=True).start()
        return _loop
