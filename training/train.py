"""From an outcome table to a checkpoint, in one command:

    python training/train.py --config training/configs/headline.yaml \\
        outcomes=FOLDER base.path=FOLDER_OR_GGUF

``--dry-run`` checks everything and prints the plan. A run that was interrupted, or repeated with
other settings, does again only what it has to; ``--fresh`` forgets the trained adapter.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    # Run as a file: the checkout, not this folder, is where imports start.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from training.config import load_config
from xrouter_lg.errors import XRouterError


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 when the run can't start."""
    parser = argparse.ArgumentParser(
        description="Train a routing policy from recorded outcomes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="a YAML file")
    parser.add_argument("--dry-run", action="store_true", help="check, print the plan, stop")
    parser.add_argument("--fresh", action="store_true", help="train again what is trained already")
    parser.add_argument("overrides", nargs="*", help="key=value, such as warm_start.epochs=1")
    options = parser.parse_intermixed_args(argv)
    console = Console(stderr=True)
    try:
        config = load_config(options.config, options.overrides)
        from training import runs  # torch takes seconds: not before the config is known to be good

        work = runs.plan(config)
    except XRouterError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    console.print(work.describe(), highlight=False, markup=False)
    if options.dry_run:
        return 0
    if options.fresh:
        work.folder.joinpath("warm_start.json").unlink(missing_ok=True)
    with Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        TextColumn("{task.completed:>5}/{task.total}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    ) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, whole: int, note: str) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=whole, note="")
            bars.update(tasks[stage], completed=done, total=whole, note=note)

        manifest = runs.run(work, show)
    print(json.dumps({"checkpoint": str(work.folder / "checkpoint"), **manifest.metrics}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
