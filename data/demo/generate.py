"""The tasks, from a seed: deduplicated, and mixed so that any beginning of them is balanced."""

from __future__ import annotations

import argparse
import itertools
from collections import Counter
from collections.abc import Sequence
from random import Random

from data.demo.families import FAMILIES
from data.demo.task import Task
from training.outcomes import prompt_key

SEED = 20261124
PER_FAMILY = 95
_PATIENCE = 2_000
"""Repetitions in a row after which a generator counts as exhausted."""


def tasks(per_family: int = PER_FAMILY, *, seed: int = SEED) -> list[Task]:
    """``per_family`` tasks of every family, one of each in turn.

    Raises:
        ValueError: a family has fewer distinct tasks than asked for.
    """
    columns = [_distinct(family, per_family, seed) for family in FAMILIES]
    return list(itertools.chain.from_iterable(zip(*columns, strict=True)))


def _distinct(family: str, count: int, seed: int) -> list[Task]:
    # A family has its own random state: a change of one leaves the others as they are recorded.
    seen: set[int] = set()
    kept: list[Task] = []
    repeated = 0
    for task in FAMILIES[family](Random(f"{seed}/{family}")):
        if len(kept) == count or repeated > _PATIENCE:
            break
        key = prompt_key(task.prompt)
        repeated = repeated + 1 if key in seen else 0
        if not repeated:
            seen.add(key)
            kept.append(task)
    if len(kept) < count:
        raise ValueError(f"family {family!r} has {len(kept)} distinct tasks, {count} are asked for")
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a few tasks of each family, to read."""
    parser = argparse.ArgumentParser(prog="python -m data.demo.generate", description=main.__doc__)
    parser.add_argument("--show", type=int, default=2, help="tasks of each family to print")
    shown = parser.parse_args(arguments).show
    found = tasks()
    for family in FAMILIES:
        for task in [task for task in found if task.family == family][:shown]:
            print(f"{task.prompt_id}\n  {task.prompt}\n  -> {task.reference!r}")
    print(", ".join(f"{name} {count}" for name, count in Counter(t.family for t in found).items()))


if __name__ == "__main__":
    main()
