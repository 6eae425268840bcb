"""The tasks, from a seed: deduplicated, and mixed so that any beginning of them is balanced."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from random import Random

from integrations.demo.recorded.families import FAMILIES
from integrations.demo.recorded.task import Task
from xrouter_lg.outcomes import prompt_key

SEED = 20261124
_PATIENCE = 2_000
"""Repetitions in a row after which a generator counts as exhausted."""


def tasks(*, seed: int = SEED) -> list[Task]:
    """Every family's tasks, mixed.

    Raises:
        ValueError: a family has fewer distinct tasks than are to be kept.
    """
    placed: list[tuple[float, str, Task]] = []
    for family, (_, count) in FAMILIES.items():
        found = _distinct(family, count, seed)
        placed += [((row + 0.5) / count, family, task) for row, task in enumerate(found)]
    return [task for _, _, task in sorted(placed, key=lambda item: item[:2])]


def _distinct(family: str, count: int, seed: int) -> list[Task]:
    # A family has its own random state: a change of one leaves the others as they are recorded.
    seen: set[int] = set()
    kept: list[Task] = []
    repeated = 0
    generate, _ = FAMILIES[family]
    for task in generate(Random(f"{seed}/{family}")):
        if len(kept) == count or repeated > _PATIENCE:
            break
        key = prompt_key(task.prompt)
        repeated = repeated + 1 if key in seen else 0
        if not repeated:
            seen.add(key)
            kept.append(task)
    if len(kept) < count:
        raise ValueError(
            f"family {family!r} has {len(kept)} distinct tasks, {count} are to be kept"
        )
    return kept


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a few tasks of each family, to read."""
    parser = argparse.ArgumentParser(
        prog="python -m integrations.demo.recorded.generate", description=main.__doc__
    )
    parser.add_argument("--show", type=int, default=2, help="tasks of each family to print")
    shown = parser.parse_args(arguments).show
    found = tasks()
    for family in FAMILIES:
        for task in [task for task in found if task.family == family][:shown]:
            print(f"{task.prompt_id}\n  {task.prompt}\n  -> {task.reference!r}")
    print(", ".join(f"{name} {count}" for name, count in Counter(t.family for t in found).items()))


if __name__ == "__main__":
    main()
