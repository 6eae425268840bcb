"""One run in several processes (``accelerate launch``): who does what once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


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


def agreed(value: T) -> T:
    """The main process's value, in every process: they must not part ways over a last digit."""
    if process_count() == 1:
        return value
    import torch.distributed as dist

    found = [value]
    dist.broadcast_object_list(found, src=0)
    return found[0]


def anyone(flag: bool) -> bool:
    """Whether any process says so: a signal may reach them at different steps."""
    if process_count() == 1:
        return flag
    import torch.distributed as dist

    flags = [False] * process_count()
    dist.all_gather_object(flags, flag)
    return any(flags)
