"""What a pull says while it runs, and when it is done."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from xrouter_lg.langsmith.costs import CostAudit


@dataclass(frozen=True)
class Progress:
    """Where a pull is. ``share`` of the time to read, 0 to 1."""

    share: float
    traces: int
    runs: int
    feedback: int
    note: str = ""
    """Why it waits, if it does."""


OnProgress = Callable[[Progress], None]


@dataclass
class PullSummary:
    """What a pull did. Counts are of this pull; a trace that was read again counts again."""

    project: str
    project_id: str
    since: datetime
    until: datetime
    costs: CostAudit
    api: str = "v2"
    traces: int = 0
    runs: int = 0
    new_runs: int = 0
    routes: int = 0
    feedback: int = 0
    new_feedback: int = 0
    open_traces: int = 0
    """Not finished yet; the next pull reads them again."""
    given_up: int = 0
    """Unfinished for so long that they are not read again."""
    left_out: int = 0
    """Runs that nothing can be made of, and that are not stored."""
    hidden_inputs: int = 0
    """Traces whose runs came without inputs."""
    hidden_outputs: int = 0
    oldest: datetime | None = None
    """Start of the oldest trace that was read."""
    requests: int = 0
    waited_s: float = 0.0
    """Seconds that LangSmith asked us to wait."""
    up_to_date: bool = False
    """Everything but the last hour was here already."""
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form; USD as decimal strings."""
        plain = {
            name: getattr(self, name)
            for name in self.__dataclass_fields__
            if name not in ("costs", "since", "until", "oldest")
        }
        return {
            **plain,
            "since": self.since.isoformat(),
            "until": self.until.isoformat(),
            "oldest": None if self.oldest is None else self.oldest.isoformat(),
            "costs": self.costs.to_dict(),
        }
