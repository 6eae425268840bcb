"""What a dashboard looks at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from xrouter_lg.checkpoints.aliases import AliasError, alias_file, resolve_checkpoint
from xrouter_lg.checkpoints.manifest import CheckpointError

CardStates = Callable[[], Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class DashboardSource:
    """The traces, and what decides over them."""

    store: str
    """Path or URL of the trace store."""
    period: timedelta = timedelta(days=7)
    """How far back is looked."""
    project: str | None = None
    feedback: str | None = None
    """Key of the scores; None: the commonest."""
    checkpoint: Path | None = None
    """Tells kinds apart, and drift from what it was trained on; None: what ``production`` points
    to."""
    checkpoints: Path = Path("checkpoints")
    """Folder of checkpoints and aliases."""
    pool: Path | None = None
    states: CardStates | None = None
    """Of a server: its cards' circuits."""

    def since(self) -> datetime:
        return datetime.now(UTC) - self.period

    def read_by(self) -> Path | None:
        """The folder of the checkpoint, None where none was named and none serves.

        Raises:
            CheckpointError, AliasError: the one that was named is not there, or damaged.
        """
        if self.checkpoint is not None:
            return resolve_checkpoint(self.checkpoint)
        production = alias_file(self.checkpoints, "production")
        if not production.is_file():
            return None
        try:
            return resolve_checkpoint(production)
        except (CheckpointError, AliasError):
            return None  # the page shows aliases and what is wrong with them
