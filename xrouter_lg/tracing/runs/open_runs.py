"""Runs between their start and their row, and what is decided of them as they start."""

from __future__ import annotations

import hashlib
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from langchain_core.runnables.config import var_child_runnable_config
from langsmith import get_current_run_tree

from xrouter_lg.tracing.runs.facts import USER_KEYS
from xrouter_lg.tracing.runs.snapshot import Frozen

_NO_MARKS = dict.fromkeys(map(ord, "-:."))


@dataclass(slots=True, eq=False)
class OpenTrace:
    """What the runs of one trace share while it goes on."""

    key: str
    """The trace's id as text."""
    kept: bool
    """False: the sampling left this trace out."""
    root: RunData | None = None
    runs: dict[UUID, RunData] = field(default_factory=dict)
    """The unfinished ones."""


@dataclass(slots=True, eq=False, kw_only=True)
class RunData:
    """A run as the recorder holds it between its start and its row."""

    id: UUID
    key: str
    """The id as text."""
    parent: RunData | None
    trace_id: UUID
    name: str
    run_type: str
    inputs: Frozen
    tags: list[str]
    extra: dict[str, Any]
    trace: OpenTrace
    start_time: datetime = field(default_factory=lambda: datetime.now(UTC))
    end_time: datetime | None = None
    outputs: Frozen | None = None
    error: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    prefix: str | None = None

    @property
    def parent_run_id(self) -> UUID | None:
        return None if self.parent is None else self.parent.id

    @property
    def dotted_order(self) -> str:
        """LangSmith's sort key: the start times and ids on the path from the root."""
        if self.prefix is None:
            began = self.start_time.isoformat(timespec="microseconds")[:26]
            own = f"{began.translate(_NO_MARKS)}Z{self.key}"
            self.prefix = own if self.parent is None else f"{self.parent.dotted_order}.{own}"
        return self.prefix


def sampled(trace_id: UUID, rate: float) -> bool:
    """Whether a trace belongs to the share that is kept: the same answer for the same id, in
    every process."""
    digest = hashlib.blake2b(trace_id.bytes, digest_size=8).digest()
    return int.from_bytes(digest) < rate * 2**64


def note_user(root: RunData) -> None:
    """Put the user into the root's metadata. ``config["configurable"]`` is not told to tracers,
    but from the first node on it stands in the context."""
    metadata = root.extra.get("metadata") or {}
    if any(key in metadata for key in USER_KEYS):
        return
    config = var_child_runnable_config.get()
    configurable = (config or {}).get("configurable") or {}
    for key in USER_KEYS:
        if isinstance(value := configurable.get(key), (str, int)):
            root.extra["metadata"] = {**metadata, key: value}
            return


def name_of(serialized: dict[str, Any] | None) -> str:
    if serialized:
        if serialized.get("name"):
            return str(serialized["name"])
        if serialized.get("id"):
            return str(serialized["id"][-1])
    return "Unnamed"


def root_trace_id(run_id: UUID, parent_run_id: UUID | None) -> UUID:
    """The trace that a first-seen run belongs to.

    With the recorder on one node and LangSmith on the whole app, the node's run has a parent
    that only LangSmith knows; taking its trace id gives both stores the same one.
    """
    if parent_run_id is not None:
        above = get_current_run_tree()
        if above is not None and above.id == parent_run_id:
            return above.trace_id
    return run_id


def error_text(error: BaseException) -> str:
    """As LangChain's tracers write it: the error, and where it was raised."""
    try:
        return repr(error) + "\n\n" + "".join(traceback.format_exception(error))
    except Exception:  # an exception's own repr may raise
        return type(error).__name__
