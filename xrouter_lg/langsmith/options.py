"""What a pull is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from xrouter_lg.pool.pool import ModelPool


@dataclass(frozen=True, kw_only=True)
class PullOptions:
    """What to pull, and what to do with it."""

    since: datetime
    until: datetime | None = None
    """None: up to now."""
    tags: Sequence[str] = ()
    """Only traces in which a run has one of these tags."""
    routed: bool = False
    """Only traces that went through a router (together with ``tags``: either)."""
    full: bool = False
    """Read the window again, whatever is here already."""
    overlap: timedelta = timedelta(hours=1)
    """How late a run may arrive in LangSmith and still be found by the next pull."""
    redact: Callable[[Any], Any] | None = None
    """As the recorder's; credentials are removed regardless."""
    pool: ModelPool | None = None
    """Cards whose prices the costs are checked against; genai-prices otherwise."""
