"""The event loop behind sync callers."""

from __future__ import annotations

import asyncio
import contextvars
import os
import signal
import subprocess
import sys
import threading

import pytest

from xrouter_lg.portal import Ending, run_sync

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


async def _value() -> str:
    await asyncio.sleep(0)
    return VARIABLE.get()


def test_the_callers_context_variables_are_seen() -> None:
    token = VARIABLE.set("mine")
    try:
        assert run_sync(_value()) == "mine"
    finally:
        VARIABLE.reset(token)


def test_exceptions_come_out_as_they_are() -> None:
    async def fail() -> None:
        raise KeyError("as it is")

    with pytest.raises(KeyError, match="as it is"):
        run_sync(fail())


def test_it_works_where_an_event_loop_is_running() -> None:
    async def main() -> str:
        return run_sync(_value())

    assert asyncio.run(main()) == "unset"


def test_it_works_from_inside_the_portal_itself() -> None:
    async def outer() -> str:
        return run_sync(_value())

    assert run_sync(outer()) == "unset"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
def test_no_exception_takes_the_portal_down(kind: type[BaseException]) -> None:
    async def fail() -> None:
        raise kind

    with pytest.raises(kind):
        run_sync(fail())
    assert run_sync(_value()) == "unset"


def test_many_threads_wait_at_once() -> None:
    together = asyncio.Barrier(32)

    async def nap() -> int:
        await together.wait()  # none goes on before all 32 are in
        return 1

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(run_sync(nap()))) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(results) == 32


def test_ctrl_c_in_the_waiting_thread_cancels_the_work() -> None:
    cancelled = threading.Event()

    async def long() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
    # A shell starts what it puts into the background with the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            run_sync(long())
    finally:
        signal.signal(signal.SIGINT, before)
    assert cancelled.wait(60)


def test_a_forked_child_gets_a_portal_of_its_own() -> None:
    code = (
        "import os, asyncio\n"
        "from xrouter_lg.portal import run_sync\n"
        "run_sync(asyncio.sleep(0))\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    run_sync(asyncio.sleep(0, 3))\n"
        "    os._exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == "7"


def test_an_ending_cancels_what_a_thread_waits_for() -> None:
    ending, begun = Ending(), threading.Event()

    async def long() -> None:
        begun.set()
        await asyncio.sleep(600)

    def end() -> None:
        begun.wait()
        ending.come()

    threading.Thread(target=end, daemon=True).start()
    with pytest.raises(asyncio.CancelledError):
        run_sync(long(), [ending])


def test_what_begins_after_the_end_is_not_begun() -> None:
    ending, begun = Ending(), threading.Event()
    ending.come()

    async def long() -> None:
        begun.set()
        await asyncio.sleep(600)

    with pytest.raises(asyncio.CancelledError):
        run_sync(long(), [ending])
    assert not begun.is_set()
    assert run_sync(_value()) == "unset"
