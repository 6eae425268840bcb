"""From recorded outcomes or traces to a checkpoint, in one command:

    python training/train.py --config training/configs/headline.yaml \\
        outcomes=FOLDER base.path=FOLDER_OR_GGUF

``traces=sqlite:///traces.db`` or ``traces=langsmith:PROJECT`` take the place of ``outcomes``.
``--dry-run`` checks everything and prints the plan with sizes, time and memory. A stage that is
done is not done again unless something it depends on has changed; ``--resume`` goes on with one
that was interrupted (Ctrl-C saves first), ``--fresh`` forgets what was trained. Several processes:
``accelerate launch training/train.py ...``; ``--check-arguments`` builds all that a GPU run hands
to TRL, accelerate and vLLM, on any machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):
    # Run as a file: the checkout, not this folder, is where imports start.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from rich.console import Console

from training.config.run import load_config
from training.processes import is_main, main_first
from xrouter_lg.errors import XRouterError

if TYPE_CHECKING:
    from training.config.run import RunConfig
    from training.data.inputs import LogPlan, Plan
    from training.stage.progress import Progress
    from xrouter_lg.checkpoints.manifest import Manifest

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
    parser.add_argument("--check-arguments", action="store_true", help="build all arguments, stop")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted stage")
    parser.add_argument("--fresh", action="store_true", help="train again what is trained already")
    parser.add_argument("overrides", nargs="*", help="key=value, such as warm_start.epochs=1")
    options = parser.parse_intermixed_args(argv)
    console = Console(stderr=True, quiet=not is_main())
    try:
        config = load_config(options.config, options.overrides)
        if options.check_arguments:
            from training.run.preflight_trl import check_arguments, report

            return report(check_arguments(config), Console())
        with ExitStack() as stack:
            # A dry run leaves nothing behind.
            folder = Path(config.output)
            if options.dry_run:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            work = _plan(config, folder, console)
            if options.dry_run:
                return 0
        return _train(work, console, resume=options.resume, fresh=options.fresh)
    except XRouterError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 2


def _plan(config: RunConfig, folder: Path, console: Console) -> Plan | LogPlan:
    from training.data.from_traces import collect
    from training.data.inputs import plan
    from training.run.describe import describe

    def note(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    # Without a language model torch, which would tell whether there is a GPU, stays unimported.
    with main_first(not config.trains_model or config.trainer.use_cpu):
        config = collect(config, folder, note)
    work = plan(config)
    note(describe(work))
    return work


def _train(work: Plan | LogPlan, console: Console, *, resume: bool, fresh: bool) -> int:
    from training.stage.progress import TrainingInterruptedError, shown

    if fresh and is_main():
        for stage in ("warm_start", "grpo"):
            work.folder.joinpath(f"{stage}.json").unlink(missing_ok=True)
    try:
        with shown(console, every_s=work.config.trainer.report_every_s) as progress:
            manifest = run_plan(work, progress, resume=resume)
    except TrainingInterruptedError as error:
        console.print(f"{error}; --resume goes on from there", highlight=False, markup=False)
        return INTERRUPTED
    if manifest is not None:
        said = {"checkpoint": str(work.folder / "checkpoint"), "kind": manifest.kind}
        print(json.dumps({**said, **manifest.metrics}, indent=1))
    return 0


def run_plan(work: Plan | LogPlan, progress: Progress, *, resume: bool = False) -> Manifest | None:
    """The run of the checkpoint's kind; torch is imported where TRL trains something."""
    from training.data.inputs import LogPlan

    if isinstance(work, LogPlan) or not work.config.trains_model:
        from training.run.head import run_head

        return run_head(work, progress, resume=resume)
    if work.config.codec == "tools":
        from training.tools.stage import run_tools

        return run_tools(work, progress, resume=resume)
    from training.run.run import run

    return run(work, progress, resume=resume)


if __name__ == "__main__":
    raise SystemExit(main())
