"""What a folder has learned so far: one line a run, appended whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xrouter_lg.errors import ConfigurationError
from xrouter_lg.files import write_bytes

STATE_FILE = "learned.json"
_KEPT = 400
"""Runs in the file: more than a year of nights."""


@dataclass(frozen=True)
class Night:
    """One finished run."""

    at: str
    """ISO time in UTC."""
    fingerprint: str
    """Of the outcomes and the settings."""
    traces: int
    scored: int
    bought_usd: str
    """Decimal."""
    checkpoint: str | None
    """Name of the folder that was written; None where nothing could be learned."""
    done: str
    """``promoted``, ``canary``, ``kept``, ``use CARD`` or ``nothing to learn``."""
    reason: str
    gain: float | None
    """Estimated utility over what the log did, score points per request."""


def read_nights(folder: Path) -> list[Night]:
    """Finished runs, oldest first.

    Raises:
        ConfigurationError: the file is damaged.
    """
    path = folder / STATE_FILE
    if not path.is_file():
        return []
    try:
        return [Night(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"{path} is damaged ({error!r}); move it away: learning starts over from the traces, "
            "and bought answers are kept in backfill.db"
        ) from error


def add_night(folder: Path, night: Night) -> None:
    """Append a run."""
    entries: list[Mapping[str, Any]] = [asdict(one) for one in (*read_nights(folder), night)]
    text = json.dumps(entries[-_KEPT:], indent=1, ensure_ascii=False)
    write_bytes(folder / STATE_FILE, f"{text}\n".encode())
