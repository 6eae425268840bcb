"""``xrouter promote`` and ``rollback``: where an alias points, and who moved it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xrouter_lg.cli.options import AsJson
from xrouter_lg.cli.said import command, echo, print_json

if TYPE_CHECKING:
    from xrouter_lg.checkpoints.alias_log import Move

app = typer.Typer()

Root = Annotated[
    Path | None,
    typer.Option(
        "--checkpoints",
        help="Folder of checkpoints and aliases; left out: the checkpoint's own, or checkpoints/.",
    ),
]
Alias = Annotated[str, typer.Option(help="The alias to move.")]
By = Annotated[str | None, typer.Option(help="Who moves it; left out: the user of this machine.")]


@command(app, "promote", example="promote checkpoints/mine --report report.json")
def promote(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint.")],
    alias: Alias = "production",
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

    if force is not None and not force.strip():
        raise typer.BadParameter("--force needs a reason; it goes into the log")
    folder = checkpoint.resolve().parent if root is None else root
    _show(move(checkpoint, root=folder, alias=alias, report=report, force=force, by=by), as_json)


@command(app, "rollback", example="rollback --to 1a2b3c4d5e6f")
def rollback(
    alias: Alias = "production",
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
    from xrouter_lg.checkpoints.alias_log import audit
    from xrouter_lg.checkpoints.aliases import rollback as move

    folder = Path("checkpoints") if root is None else root
    if not log:
        _show(move(root=folder, alias=alias, to=to, by=by), as_json)
        return
    moves = [entry for entry in audit(folder) if entry.alias == alias]
    if as_json:
        print_json([dataclasses.asdict(one) for one in moves])
        return
    for one in moves:
        why = f"forced: {one.forced}" if one.forced else one.report or ""
        echo(
            f"{one.at}  {one.action:8}  {one.from_version or '-'} -> {one.to_version}  "
            f"{one.step}  {one.by}  {why}".rstrip()
        )


def _show(move: Move, as_json: bool) -> None:
    if as_json:
        print_json(dataclasses.asdict(move))
        return
    before = "nothing" if move.from_version is None else move.from_version
    echo(f"{move.alias}: {before} -> {move.to_version} ({move.to_checkpoint}), by {move.by}")
