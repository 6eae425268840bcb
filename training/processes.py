"""One run in several processes (``accelerate launch``): who does what once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def process_count() -> int:
    """Processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes files and talks to the terminal."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def main_first(use_cpu: bool) -> Iterator[None]:
    """The main process first, then the others: what it writes to disk they find done."""
    if process_count() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState(cpu=use_cpu).main_process_first():
        yield


def wait_for_all(use_cpu: bool) -> None:
    """Wait until every process has come here."""
    if process_count() > 1:
        from accelerate import PartialState

        PartialState(cpu=use_cpu).wait_for_everyone()
