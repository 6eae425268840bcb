"""The recorder: LangChain callbacks in, rows of the local trace store out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, cast
from uuid import UUID

from langchain_core.messages import BaseMessage
from langchain_core.outputs import LLMResult
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

from xrouter_lg.errors import ConfigurationError, StoreError
from xrouter_lg.tracing.record.sink import BatchSink
from xrouter_lg.tracing.runs.hashing import TextHasher
from xrouter_lg.tracing.runs.open_runs import (
    OpenTrace,
    RunData,
    error_text,
    name_of,
    note_user,
    root_trace_id,
    sampled,
)
from xrouter_lg.tracing.runs.snapshot import (
    Frozen,
    freeze,
    snapshot,
    snapshot_messages,
    snapshot_result,
)
from xrouter_lg.tracing.store.connect import DEFAULT_STORE
from xrouter_lg.tracing.store.rows import RowMaker

if TYPE_CHECKING:
    from xrouter_lg.tracing.store.trace_store import TraceStore

_RETRY_AFTER_S = 0.2
_LOCKED_S = 60.0
"""How long a store that another process holds is waited for, while the queue has room."""
_CONFIRM_S = 5.0
"""The longest that ``durability="sync"`` holds a request up."""

_NOTHING = freeze({}, "input")


class Recorder(BaseTracer):
    """Records runs into a :class:`TraceStore` without ever failing a request.

    Pass it in ``config["callbacks"]`` of a whole app or of one node. The request's thread only
    copies inputs and outputs; one writer thread makes rows of them and commits in batches, at
    most about 0.05 s after a run ended. A full queue drops the newest run (``dropped``); what
    the database refuses is counted too (``failed``, ``last_error``). Both warn once in the log.
    A store that another process has locked is waited for, up to a minute.

    ``durability="async"`` delays no request: a process that is killed loses what ended in its last
    moments (0.05 s, and what the database takes to commit). ``durability="sync"`` holds a request
    up until its trace is committed and flushed to disk, a few milliseconds in which its event loop
    does nothing else: what has been answered is in the store, whatever becomes of the process or of
    the machine's power. A store that does not answer is waited for at most 5 s, once; requests that
    went on without it are counted (``late``). A :class:`TraceStore` that is handed in flushes as it
    was told to.

    ``redact`` gets inputs, outputs, metadata, tags and errors as JSON values and returns what
    may be stored; when it raises, the value is left out. Credentials are removed regardless.
    ``prompts="hashed"`` stores keyed hashes instead of texts: such traces train nothing.
    ``sample_rate`` is the share of traces that are kept, decided once for a whole trace by its
    id and written into the rows. Traces older than ``retention_days`` are deleted bit by bit.

    It is a ``BaseTracer`` because LangGraph hands some payloads to tracers only, but it
    overrides every callback: its ``RunTree`` costs 0.09 ms per run, this 0.04 ms.
    """

    run_inline = True
    """Called on the event loop itself: the order of events is kept, and no thread is started."""

    def __init__(
        self,
        store: TraceStore | str | os.PathLike[str] = DEFAULT_STORE,
        *,
        project: str = "default",
        max_queue: int = 20_000,
        redact: Callable[[Any], Any] | None = None,
        prompts: Literal["full", "hashed"] = "full",
        sample_rate: float = 1.0,
        retention_days: float | None = None,
        durability: Literal["async", "sync"] = "async",
    ) -> None:
        from xrouter_lg.tracing.store.retention import Retention
        from xrouter_lg.tracing.store.trace_store import (
            TraceStore,  # SQLAlchemy loads when traces are kept
        )

        super().__init__()
        _check(prompts, sample_rate, retention_days, durability)
        sync = durability == "sync"
        self._owns_store = not isinstance(store, TraceStore)
        self.store = (
            store
            if isinstance(store, TraceStore)
            else TraceStore(store, synchronous="full" if sync else "normal")
        )
        self.durability = durability
        self.project = project
        self._sample_rate = sample_rate
        hasher = TextHasher(self.store.prompt_salt()) if prompts == "hashed" else None
        self._rows = RowMaker(project, redact, hasher=hasher, sample_rate=sample_rate)
        self._retention = None if retention_days is None else Retention(self.store, retention_days)
        self._open: dict[str, RunData] = {}
        # Where `annotate` and LangChain look for a tracer's open runs.
        self.run_map = cast("dict[str, Run]", self._open)
        self._sink: BatchSink[RunData] = BatchSink(self._write, max_queue=max_queue)
        self.late = 0
        """Requests that ``durability="sync"`` did not hold up until their trace was written."""
        self._overdue: threading.Event | None = None

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    @property
    def dropped(self) -> int:
        """Runs that were not queued because the queue was full or the recorder closed."""
        return self._sink.dropped

    @property
    def failed(self) -> int:
        """Runs that the database did not take."""
        return self._sink.failed

    @property
    def last_error(self) -> BaseException | None:
        """The latest reason for ``failed``."""
        return self._sink.last_error

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until everything recorded so far was written; False on timeout (seconds)."""
        return self._sink.flush(timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Write what is queued (for at most ``timeout`` seconds), stop, close an own store."""
        self._sink.close(timeout)
        if self._owns_store:
            self.store.close()

    # --- starts ----------------------------------------------------------------------------

    def on_chain_start(
        self,
        serialized: dict[str, Any] | None,
        inputs: Any,
        *,
        run_id: UUID,
        run_type: str | None = None,
        **kwargs: Any,
    ) -> Any:
        self._begin(
            run_type or "chain", lambda: _copied(inputs, "input"), serialized, run_id, kwargs
        )

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **kwargs: Any,
    ) -> Any:
        self._begin("llm", lambda: snapshot_messages(messages), serialized, run_id, kwargs)

    def on_llm_start(
        self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> Any:
        self._begin(
            "llm", lambda: freeze({"prompts": prompts}, "input"), serialized, run_id, kwargs
        )

    def on_tool_start(
        self,
        serialized: dict[str, Any],
        input_str: str,
        *,
        run_id: UUID,
        inputs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        given = inputs if isinstance(inputs, dict) else input_str
        self._begin("tool", lambda: _copied(given, "input"), serialized, run_id, kwargs)

    def on_retriever_start(
        self, serialized: dict[str, Any], query: str, *, run_id: UUID, **kwargs: Any
    ) -> Any:
        kwargs["name"] = kwargs.get("name") or "Retriever"
        self._begin(
            "retriever", lambda: freeze({"query": query}, "input"), serialized, run_id, kwargs
        )

    # --- ends ------------------------------------------------------------------------------

    def on_chain_end(self, outputs: Any, *, run_id: UUID, inputs: Any = None, **kwargs: Any) -> Any:
        self._end(run_id, lambda: _copied(outputs, "output"), inputs=inputs)

    def on_chain_error(
        self, error: BaseException, *, inputs: Any = None, run_id: UUID, **kwargs: Any
    ) -> Any:
        self._end(run_id, None, inputs=inputs, error=error)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> Any:
        self._end(run_id, lambda: snapshot_result(response))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Any:
        response = kwargs.get("response")
        copied = None if response is None else lambda: snapshot_result(response)
        self._end(run_id, copied, error=error)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> Any:
        self._end(run_id, lambda: freeze({"output": snapshot(output)}, "output"))

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Any:
        self._end(run_id, None, error=error)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> Any:
        self._end(run_id, lambda: freeze({"documents": snapshot(documents)}, "output"))

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Any:
        self._end(run_id, None, error=error)

    # --- between ---------------------------------------------------------------------------

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> Any:
        """Keep the time of the first token only, as LangSmith does."""
        run = self._open.get(str(run_id))
        if run is not None and not run.events:
            run.events.append({"name": "new_token", "time": datetime.now(UTC).isoformat()})

    def on_retry(self, retry_state: Any, *, run_id: UUID, **kwargs: Any) -> Any:
        run = self._open.get(str(run_id))
        if run is not None:
            now = datetime.now(UTC).isoformat()
            details = {"attempt": retry_state.attempt_number, "slept": retry_state.idle_for}
            run.events.append({"name": "retry", "time": now, "kwargs": details})

    def _persist_run(self, run: Run) -> None:
        """Required by ``BaseTracer``, whose own callbacks are all overridden here."""

    def _begin(
        self,
        run_type: str,
        inputs: Callable[[], Frozen],
        serialized: dict[str, Any] | None,
        run_id: UUID,
        told: dict[str, Any],
    ) -> None:
        """``inputs`` makes the copy, which costs most: it is asked only for what is kept. ``told``
        is what LangChain says besides; what has no place of its own becomes the run's ``extra``."""
        parent_run_id: UUID | None = told.pop("parent_run_id", None)
        tags, metadata, name = (told.pop(what, None) for what in ("tags", "metadata", "name"))
        key = str(run_id)
        if key in self._open:
            return  # attached twice to one request
        parent = self._open.get(str(parent_run_id)) if parent_run_id is not None else None
        if parent is None:
            trace_id = root_trace_id(run_id, parent_run_id)
            kept = self._sample_rate >= 1 or sampled(trace_id, self._sample_rate)
            trace = OpenTrace(key if trace_id is run_id else str(trace_id), kept)
        else:
            trace_id, trace = parent.trace_id, parent.trace
        if metadata and trace.kept:
            told["metadata"] = dict(metadata)
        run = RunData(
            id=run_id,
            key=key,
            parent=parent,
            trace_id=trace_id,
            name=name or name_of(serialized),
            run_type=run_type,
            inputs=inputs() if trace.kept else _NOTHING,
            tags=tags or [],
            extra=told,
            trace=trace,
        )
        self._open[key] = run
        trace.runs[run_id] = run
        if parent is None:
            trace.root = run
            if trace.kept:
                # Queued at its start too, so that a killed process leaves a row of it.
                self._sink.offer(run)
        elif trace.kept and trace.root is not None:
            note_user(trace.root)

    def _end(
        self,
        run_id: UUID,
        outputs: Callable[[], Frozen] | None,
        *,
        inputs: Any = None,
        error: BaseException | None = None,
    ) -> None:
        run = self._open.pop(str(run_id), None)
        if run is None:
            return
        trace = run.trace
        trace.runs.pop(run_id, None)
        if trace.kept:
            run.outputs = None if outputs is None else outputs()
            if inputs is not None:  # they came as a stream and are complete only now
                run.inputs = _copied(inputs, "input")
            if error is not None:
                run.error = error_text(error)
            # A clock may be set back meanwhile; no run ends before it began.
            run.end_time = max(datetime.now(UTC), run.start_time)
        if run.parent is None:
            # Runs that were cancelled without a word would stay here for ever.
            for child in list(trace.runs.values()):
                self._open.pop(str(child.id), None)
                if trace.kept:
                    self._sink.put(child)
            trace.runs.clear()
        if trace.kept:
            self._sink.put(run)
            if run.parent is None and self.durability == "sync":
                self._confirm()

    def _confirm(self) -> None:
        """Wait until what was recorded is in the store; not for one that is known to hang."""
        if self._overdue is not None and not self._overdue.is_set():
            self.late += 1
            return
        mark = self._sink.mark()
        if mark is not None and not mark.wait(_CONFIRM_S):
            self.late += 1
            self._overdue = mark

    # --- the writer's thread ---------------------------------------------------------------

    def _write(self, batch: list[RunData]) -> None:
        # A root that started and ended within one batch is in it twice: one row is enough.
        runs = list({id(run): run for run in batch}.values())
        try:
            behind = len(batch) >= self._sink.batch
            run_rows, route_rows = self._rows.rows(runs, polite=not behind)
            self._write_rows(run_rows, route_rows)
        except StoreError as error:
            # A value that the database does not take is of one run; a disk that is full, of all.
            if len(runs) > 1 and type(error.__cause__).__name__ != "OperationalError":
                self._write_singly(runs)
            else:
                self._sink.record_failure(len(runs), error)
        except Exception:  # one odd run must not take the others with it
            self._write_singly(runs)
        if self._retention is not None:
            self._retention.step()

    def _write_rows(self, run_rows: list[dict[str, Any]], route_rows: list[dict[str, Any]]) -> None:
        patience = time.monotonic() + _LOCKED_S
        tries = 0
        while True:
            tries += 1
            try:
                return self.store.write(run_rows, route_rows)
            except StoreError as error:
                waits = "locked" in str(error.__cause__) and self._sink.patient
                if tries > 1 and not (waits and time.monotonic() < patience):
                    raise
            time.sleep(_RETRY_AFTER_S)

    def _write_singly(self, runs: list[RunData]) -> None:
        for run in runs:
            try:
                self.store.write(*self._rows.rows([run]))
            except Exception as error:
                self._sink.record_failure(1, error)


def _check(prompts: str, sample_rate: float, retention_days: float | None, durability: str) -> None:
    if durability not in ("async", "sync"):
        raise ConfigurationError(f"durability must be 'async' or 'sync', got {durability!r}")
    if prompts not in ("full", "hashed"):
        raise ConfigurationError(f"prompts must be 'full' or 'hashed', got {prompts!r}")
    if not 0 <= sample_rate <= 1:
        raise ConfigurationError(f"sample_rate must be from 0 to 1, got {sample_rate!r}")
    if retention_days is not None and not retention_days > 0:
        raise ConfigurationError(f"retention_days must be above 0, got {retention_days!r}")


def _copied(value: Any, key: str) -> Frozen:
    return freeze(value, key)
