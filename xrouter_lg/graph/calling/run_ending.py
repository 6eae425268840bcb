"""The end of the LangGraph runs that a thread works for.

A node of an async graph is cancelled when the stream's reader has left, when the step took too long
or when a node beside it failed. A node of a sync graph is told nothing: LangGraph waits for its
thread. But a run keeps what is to be done at its end on an ``ExitStack``, which what it hands to
its nodes leads to; so a call is put there that cancels ours. Where another version of LangGraph
keeps it elsewhere, no end is found, and the thread is waited for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from typing import Any
from weakref import WeakKeyDictionary

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config

from xrouter_lg.portal import Ending

_CALL = "__pregel_call"
"""Where LangGraph hands a node what starts tasks; among its arguments is a method of the run."""
_DEEPEST = 32

_lock = threading.Lock()
_endings: WeakKeyDictionary[ExitStack | AsyncExitStack, Ending] = WeakKeyDictionary()


def endings_of(config: RunnableConfig | None) -> list[Ending]:
    """The ends of the run that a node is in, and of those that this one is a part of."""
    found: list[Ending] = []
    seen: Any = None
    run = _run_of(config) or _run_of(var_child_runnable_config.get())
    while run is not None and run is not seen and len(found) < _DEEPEST:
        stack = getattr(run, "stack", None)
        if not isinstance(stack, ExitStack | AsyncExitStack):
            break
        found.append(_ending_of(stack))
        seen, run = run, _run_of(getattr(run, "config", None))
    return found


def _run_of(config: Any) -> Any:
    inside = config.get("configurable") if isinstance(config, Mapping) else None
    call = inside.get(_CALL) if isinstance(inside, Mapping) else None
    method = (getattr(call, "keywords", None) or {}).get("schedule_task")
    return getattr(method, "__self__", None)


def _ending_of(stack: ExitStack | AsyncExitStack) -> Ending:
    with _lock:
        ending = _endings.get(stack)
        if ending is None:
            ending = _endings[stack] = Ending()
            # A stack that is being worked off has nothing left on it but the wait for us.
            working_off = not getattr(stack, "_exit_callbacks", True)
            stack.callback(ending.come)
            if working_off:
                ending.come()
        return ending
