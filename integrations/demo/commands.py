"""The commands of the demo, run and shown as a user would type them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from rich.console import Console

from xrouter_lg.errors import XRouterError

ROOT = Path(__file__).resolve().parents[2]


class CommandFailedError(XRouterError, RuntimeError):
    """A command of the demo ended with an error, which it has printed itself."""

    def __init__(self, shown: str, status: int) -> None:
        super().__init__(f"this command ended with status {status}:\n  {shown}")


def xrouter(*arguments: str, console: Console, also: Collection[int] = ()) -> int:
    """``xrouter ARGUMENTS``; its exit code, which is 0 or one of ``also``.

    Raises:
        CommandFailedError: it failed, or was interrupted.
    """
    line = shlex.join(["xrouter", *arguments])
    console.print(f"$ {line}", style="dim", highlight=False, markup=False, soft_wrap=True)
    console.file.flush()
    # The console script stands beside the interpreter only where the package is installed.
    start = "from xrouter_lg.cli import main; raise SystemExit(main())"
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    command = [sys.executable, "-c", start, *arguments]
    status = subprocess.run(command, env=environment, check=False).returncode
    if status and status not in also:
        raise CommandFailedError(line, status)
    return status
