"""``xrouter promote``: let an alias point to a checkpoint, if a verdict allows it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xrouter_lg.cli._aliases import AsJson, By, Root, said, show

app = typer.Typer()


@app.command()
def promote(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint.")],
    to: Annotated[str, typer.Option("--to", help="The alias to move.")] = "production",
    report: Annotated[
        Path | None,
        typer.Option(help="JSON report of `xrouter judge`; left out: the manifest's verdict."),
    ] = None,
    force: Annotated[
        str | None,
        typer.Option(metavar="REASON", help="Move without a verdict; the reason is logged."),
    ] = None,
    root: Root = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Let an alias point to a checkpoint; what serves by the alias follows when it next loads.

    Exit code 0: moved; 3: refused, no verdict allows it; 2: a file is missing or damaged.
    """
    from xrouter_lg.checkpoints.aliases import promote as move

    with said():
        if force is not None and not force.strip():
            raise typer.BadParameter("--force needs a reason; it goes into the log")
        folder = checkpoint.resolve().parent if root is None else root
        done = move(checkpoint, root=folder, alias=to, report=report, force=force, by=by)
        show(done, as_json)
