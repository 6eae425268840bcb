"""``xrouter checkpoint``: what can be done to a checkpoint that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xrouter_lg.cli.options import AsJson
from xrouter_lg.cli.said import command, echo, print_json

app = typer.Typer(help="Change a checkpoint without training it again.", no_args_is_help=True)


@app.callback()
def checkpoint() -> None:
    """Change a checkpoint without training it again."""


@command(
    app,
    "add-card",
    example="checkpoint add-card checkpoints/production --outcomes probe --model gpt-5.3 "
    "--output checkpoints/grown",
)
def add_card(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the checkpoint, or an alias.")],
    outcomes: Annotated[
        Path, typer.Option(help="Folder of an outcome table with the new model's outcomes.")
    ],
    model: Annotated[str, typer.Option(help="The new model's name in the table.")],
    output: Annotated[Path, typer.Option(help="Folder of the new checkpoint.")],
    as_json: AsJson = False,
) -> None:
    """Add a card by a probe set: 50 prompts with the new model's score and cost will do.

    Exit code 0: written; 2: the card can't be added.
    """
    from xrouter_lg.checkpoints.aliases import resolve_checkpoint
    from xrouter_lg.fitting.new_card import add_card as add
    from xrouter_lg.fitting.new_card import read_probe
    from xrouter_lg.pool.card import normalise_name

    prompts, score, cost, tokens = read_probe(outcomes, model)
    written = add(
        resolve_checkpoint(checkpoint),
        output,
        normalise_name(model),
        prompts,
        score,
        cost,
        output_tokens=tokens,
    )
    if as_json:
        cards = [card.name for card in written.every_card]
        found = {"checkpoint": str(output), "kind": written.kind, "version": written.version}
        print_json({**found, "cards": cards})
        return
    echo(f"{output}: {len(written.cards)} trained cards and {len(written.added)} added")
