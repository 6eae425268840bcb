"""``xrouter doctor``: what is here, and the next command."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xrouter_lg.cli.options import STORE, AsJson, Store
from xrouter_lg.cli.said import command, echo, print_json
from xrouter_lg.cli.tables import console, plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from xrouter_lg.cli.newcomer.condition import Fact

app = typer.Typer()

_MARKS = {"ok": "[green]ok[/green]", "absent": "-", "wrong": "[red]wrong[/red]"}


@command(app, "doctor", example="doctor --json")
def doctor(
    pool: Annotated[Path, typer.Option(envvar="XROUTER_POOL", help="The pool file.")] = Path(
        "pool.yaml"
    ),
    store: Store = STORE,
    checkpoints: Annotated[Path, typer.Option(help="Folder of checkpoints and aliases.")] = Path(
        "checkpoints"
    ),
    as_json: AsJson = False,
) -> None:
    """Look at what is installed, set and there, and name the next command.

    Versions, extras, the pool file, which keys are set (by name, never by value), the trace store,
    checkpoints and what is in production, LangSmith's settings, torch and GPU, fetched weights.
    Nothing is called over the network and nothing is changed.

    Exit code 0, whatever is found.
    """
    from xrouter_lg.cli.newcomer.condition import look

    found = look(store, checkpoints, pool)
    if as_json:
        print_json(asdict(found))
        return
    console().print(_table(found.facts))
    echo(f"\nnext: {found.next.command}\n      ({found.next.why})")


def _table(facts: tuple[Fact, ...]) -> Table:
    from rich.markup import escape

    table = plain_table("", "", "", "")
    table.show_header = False
    area = ""
    for fact in facts:
        shown = "" if fact.area == area else f"[bold]{escape(fact.area)}[/bold]"
        area = fact.area
        table.add_row(shown, escape(fact.name), _MARKS[fact.state], escape(fact.said))
    return table
