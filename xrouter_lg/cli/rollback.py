"""``xrouter rollback``: let an alias point to what it pointed to before."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xrouter_lg.cli._aliases import AsJson, By, Root, said, show, show_history

app = typer.Typer()


@app.command()
def rollback(
    alias: Annotated[str, typer.Argument(help="The alias to move back.")] = "production",
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="A version it pointed to before.")
    ] = None,
    log: Annotated[bool, typer.Option("--log", help="Only show the log; move nothing.")] = False,
    root: Root = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Let an alias point to what it pointed to before; run again, it goes one further back.

    Exit code 0: moved; 2: there is nothing to go back to, or it is gone.
    """
    from xrouter_lg.checkpoints.aliases import audit
    from xrouter_lg.checkpoints.aliases import rollback as move

    folder = Path("checkpoints") if root is None else root
    with said():
        if log:
            show_history([entry for entry in audit(folder) if entry.alias == alias], as_json)
            return
        show(move(root=folder, alias=alias, to=to, by=by), as_json)
