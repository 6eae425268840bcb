"""Requests of a router that is part of the app's graph, told to a recorder that the app has not.

A recorder among the app's callbacks sees the app's run and the steps below it. One that belongs to
the router alone sees no run above the steps: here each request gets one, as :class:`XRouterNode`'s
requests have.
"""

from __future__ import annotations

import threading
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import var_child_runnable_config
from langgraph.types import Command

from xrouter_lg.calls.told.stream_watch import handlers_of, with_handler
from xrouter_lg.graph.asking import RUN_NAME
from xrouter_lg.tracing.record.recorder import Recorder
from xrouter_lg.tracing.runs.extract import ROLE_KEY, node_run_id_of

_MOST = 8_192
"""Requests that may be under way; of more, the oldest was left by its app."""


class OwnTrace:
    """The run of each request that is under way, and the runs of its steps. Thread-safe."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._lock = threading.Lock()
        self._roots: OrderedDict[str, uuid.UUID] = OrderedDict()

    def listens(self, config: RunnableConfig) -> bool:
        """Whether the app itself tells the recorder of everything."""
        return self.recorder in handlers_of(config)

    async def step(
        self,
        name: str,
        request_id: str,
        state: Mapping[str, Any],
        config: RunnableConfig,
        run: Callable[[RunnableConfig], Awaitable[Any]],
        answers_in: str,
    ) -> Any:
        """What ``run`` gives, recorded as a step of the request. The request is at its end with an
        error, or with a ``Command`` that writes the state's key ``answers_in``."""
        step_id = uuid.UUID(node_run_id_of(config) or str(uuid.uuid4()))
        metadata = dict(config.get("metadata") or {})
        told: dict[str, Any] = {"tags": config.get("tags"), "metadata": metadata}
        root = self._root(request_id, step_id, state, told)
        self.recorder.on_chain_start(
            None, dict(state), run_id=step_id, parent_run_id=root, name=name, **told
        )
        heard = with_handler(config, self.recorder)
        # Policies look for the running config in the context, as LangGraph leaves it there.
        token = var_child_runnable_config.set(heard)
        try:
            result = await run(heard)
        except BaseException as error:
            self.recorder.on_chain_error(error, run_id=step_id)
            if self._left(request_id) is not None:
                self.recorder.on_chain_error(error, run_id=root)
            raise
        finally:
            with suppress(ValueError):  # closed from elsewhere: the context is gone anyway
                var_child_runnable_config.reset(token)
        self.recorder.on_chain_end(result, run_id=step_id)
        update = result.update if isinstance(result, Command) else None
        if isinstance(update, Mapping) and answers_in in update:
            self._left(request_id)
            self.recorder.on_chain_end({"messages": update[answers_in]}, run_id=root)
        return result

    def _root(
        self, request_id: str, step_id: uuid.UUID, state: Mapping[str, Any], told: dict[str, Any]
    ) -> uuid.UUID:
        """The request's run, begun where this process has not begun it."""
        with self._lock:
            if (known := self._roots.get(request_id)) is not None:
                return known
            root = self._roots[request_id] = uuid.uuid4()
            oldest = self._roots.popitem(last=False)[1] if len(self._roots) > _MOST else None
        metadata = {key: value for key, value in told["metadata"].items() if key != ROLE_KEY}
        # By the step's run the recorder finds LangSmith's trace, where there is one.
        self.recorder.on_chain_start(
            None,
            dict(state),
            run_id=root,
            parent_run_id=step_id,
            name=RUN_NAME,
            tags=told["tags"],
            metadata=metadata,
        )
        if oldest is not None:
            self.recorder.on_chain_error(TimeoutError("the app left the request"), run_id=oldest)
        return root

    def _left(self, request_id: str) -> uuid.UUID | None:
        with self._lock:
            return self._roots.pop(request_id, None)
