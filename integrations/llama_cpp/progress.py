"""One progress bar, counted in bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

Advance = Callable[[int], None]
"""Called with the total number of bytes that are on disk."""


@contextlib.contextmanager
def byte_progress(label: str, total_bytes: int, *, enabled: bool) -> Iterator[Advance]:
    """Show a bar on standard error while the block runs; silent when not ``enabled``."""
    if not enabled:
        yield lambda _completed: None
        return
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )
    except ImportError as error:
        raise ImportError(
            "the progress bar needs rich: pip install 'xrouter-lg[local]', or pass progress=False"
        ) from error
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bars:
        task = bars.add_task(label, total=total_bytes)
        yield lambda completed: bars.update(task, completed=completed)
