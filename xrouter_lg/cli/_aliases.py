"""What ``xrouter promote`` and ``xrouter rollback`` share."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from xrouter_lg.checkpoints.aliases import Move

Root = Annotated[
    Path | None,
    typer.Option(help="Folder of the aliases; left out: the checkpoint's own, or checkpoints/."),
]
By = Annotated[str | None, typer.Option(help="Who moves it; left out: the user of this machine.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def show(move: Move, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(move), ensure_ascii=False, indent=1))
        return
    before = "nothing" if move.from_version is None else f"{move.from_version}"
    typer.echo(f"{move.alias}: {before} -> {move.to_version} ({move.to_checkpoint}), by {move.by}")


def show_history(moves: Sequence[Move], as_json: bool) -> None:
    if as_json:
        rows = [dataclasses.asdict(move) for move in moves]
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    for move in moves:
        why = f"forced: {move.forced}" if move.forced else move.report or ""
        typer.echo(
            f"{move.at}  {move.action:8}  {move.from_version or '-'} -> {move.to_version}  "
            f"{move.step}  {move.by}  {why}".rstrip()
        )


@contextmanager
def said() -> Iterator[None]:
    """A refusal or a wrong file in one line, with its exit code."""
    from xrouter_lg.checkpoints.aliases import NotPromotedError
    from xrouter_lg.errors import XRouterError

    try:
        yield
    except NotPromotedError as error:
        typer.echo(f"xrouter: not promoted: {error}", err=True)
        raise typer.Exit(3) from None
    except XRouterError as error:
        typer.echo(f"xrouter: {error}", err=True)
        raise typer.Exit(2) from None
