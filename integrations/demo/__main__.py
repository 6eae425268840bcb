"""``python -m integrations.demo``: three weeks of an app, on recorded answers."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console

from xrouter_lg.errors import XRouterError

_NEEDS = ("polars", "sklearn", "safetensors", "openevals", "typer")
_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0; 1 when something failed; 3 when what serves in the end is not shown to be worth
    more than the rules; 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    # What is no terminal has no width of its own.
    console = Console(width=None if sys.stdout.isatty() else 100)
    lacking = [name for name in _NEEDS if find_spec(name) is None]
    if lacking:
        console.print(
            f"error: the demo learns, and needs {', '.join(lacking)}: run `make demo`, or "
            "pip install -c constraints.txt -e '.[cli,data]'",
            markup=False,
        )
        return 1
    try:
        return 0 if _run(options, console) else 3
    except XRouterError as error:
        console.print(f"error: {error}", style="red", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return _INTERRUPTED


def _run(options: argparse.Namespace, console: Console) -> bool:
    from integrations.demo.questions import load
    from integrations.demo.run import run
    from integrations.demo.story import Settings

    settings = Settings(
        folder=options.folder,
        cost_weight=options.cost_weight,
        budget_usd=options.budget_usd,
        seed=options.seed,
    )
    history = load(per_family=options.per_family, split=options.split)
    return run(history, settings, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m integrations.demo",
        description="An app that learns from what its users leave, for three weeks.",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("runs/demo"),
        help="for everything written; a run that was stopped goes on there (default: %(default)s)",
    )
    parser.add_argument("--per-family", type=int, help="questions of each kind (default: all)")
    parser.add_argument(
        "--cost-weight", type=float, default=0.5, help="λ of the routed app (default: %(default)s)"
    )
    parser.add_argument(
        "--budget-usd",
        type=float,
        default=0.0026,
        help="for bought answers, all nights together (default: %(default)s)",
    )
    parser.add_argument(
        "--split",
        default="demo",
        help="any name; with another one other questions are held out (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="of users, judge and order (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
