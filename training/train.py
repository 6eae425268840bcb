"""From an outcome table to a checkpoint, in one command:

    python training/train.py --config training/configs/headline.yaml \\
        outcomes=FOLDER base.path=FOLDER_OR_GGUF

``--dry-run`` checks everything and prints the plan with sizes, time and memory. A stage that is
done is not done again unless something it depends on has changed; ``--resume`` goes on with one
that was interrupted (Ctrl-C saves first), ``--fresh`` forgets what was trained. Several processes:
``accelerate launch training/train.py ...``.
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

from training.config import load_config
from training.processes import is_main
from xrouter_lg.errors import XRouterError

INTERRUPTED = 130
"""Exit code after an orderly stop, as a shell has it for Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0; 2 when the run can't start; 130 when it was interrupted and can be resumed."""
    parser = argparse.ArgumentParser(
        description="Train a routing policy from recorded outcomes.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, required=True, help="a YAML file")
    parser.add_argument("--dry-run", action="store_true", help="check, print the plan, stop")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted stage")
    parser.add_argument("--fresh", action="store_true", help="train again what is trained already")
    parser.add_argument("overrides", nargs="*", help="key=value, such as warm_start.epochs=1")
    options = parser.parse_intermixed_args(argv)
    console = Console(stderr=True, quiet=not is_main())
    try:
        config = load_config(options.config, options.overrides)
        from training import runs  # torch takes seconds: not before the config is known to be good
        from training.callbacks import TrainingInterruptedError
        from training.estimate import describe
        from training.progress import shown

        work = runs.plan(config)
    except XRouterError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    console.print(describe(work), highlight=False, markup=False, soft_wrap=True)
    if options.dry_run:
        return 0
    if options.fresh and is_main():
        for stage in ("warm_start", "grpo"):
            work.folder.joinpath(f"{stage}.json").unlink(missing_ok=True)
    try:
        with shown(console, every_s=config.trainer.report_every_s) as progress:
            manifest = runs.run(work, progress, resume=options.resume)
    except XRouterError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 2
    except TrainingInterruptedError as error:
        console.print(f"{error}; --resume goes on from there", highlight=False, markup=False)
        return INTERRUPTED
    if manifest is not None:
        found = {"checkpoint": str(work.folder / "checkpoint"), **manifest.metrics}
        print(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
