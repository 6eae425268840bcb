"""The commands of the loop, run and shown as a user would type them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from xrouter_lg.errors import XRouterError

ROOT = Path(__file__).resolve().parents[2]


class CommandFailedError(XRouterError, RuntimeError):
    """A command of the loop ended with an error, which it has printed itself."""

    def __init__(self, shown: str, status: int) -> None:
        super().__init__(f"this command ended with status {status}:\n  {shown}")


def xrouter(*arguments: str, console: Console) -> None:
    """``xrouter ARGUMENTS``.

    Raises:
        CommandFailedError: it failed, or was interrupted.
    """
    # The console script stands beside the interpreter only where the package is installed.
    start = "from xrouter_lg.cli import main; raise SystemExit(main())"
    _run(["xrouter", *arguments], ["-c", start, *arguments], console)


def train(*arguments: str, console: Console) -> None:
    """``python training/train.py ARGUMENTS``.

    Raises:
        CommandFailedError: it could not start, or was interrupted.
    """
    script = "training/train.py"
    _run(["python", script, *arguments], [script, *arguments], console)


def _run(shown: Sequence[str], arguments: Sequence[str], console: Console) -> None:
    line = shlex.join(shown)
    console.print(f"$ {line}", style="dim", highlight=False, markup=False, soft_wrap=True)
    # Bars of the libraries inside would run over the progress that our commands print themselves.
    quiet = {**os.environ, "TQDM_DISABLE": "1", "PYTHONWARNINGS": "ignore::FutureWarning"}
    command = [sys.executable, *arguments]
    status = subprocess.run(command, cwd=ROOT, env=quiet, check=False).returncode
    if status:
        raise CommandFailedError(line, status)
