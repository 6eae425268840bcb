"""One table on the screen, one line in ``RESULTS.md``: date, command, machine, figures."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

_WIDE = 240
RESULTS = Path(__file__).parent / "RESULTS.md"
_ROOT = RESULTS.parents[1]


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        table.add_row(*row)
    # Cells are figures: in a file or a pipe they must not be cut to fit 80 columns.
    Console(width=None if sys.stdout.isatty() else _WIDE).print(table)


def append(figure: str) -> None:
    """Add a line with what was measured just now, and how."""
    machine = f"{_cpu()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    line = f"| {datetime.now(UTC):%Y-%m-%d} | `{command()}` | {machine} | {figure} |\n"
    if not RESULTS.exists():
        RESULTS.write_text(
            "# Benchmark results\n\nOne line a run. Figures of one line were measured in the "
            "same run.\n\n| date | command | machine | figures |\n|---|---|---|---|\n"
        )
    with RESULTS.open("a") as file:
        file.write(line)


def command() -> str:
    """The command that runs, from the checkout's folder."""
    spec = sys.modules["__main__"].__spec__
    script, *words = sys.argv
    if spec is not None:
        begun = ["-m", spec.name.removesuffix(".__main__")]
    else:
        path = Path(script).resolve()
        begun = [str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else path.name]
    # Where a model or a table lies on this machine is nobody's business.
    return " ".join(
        ["python", *begun, *(Path(w).name if Path(w).is_absolute() else w for w in words)]
    )


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
