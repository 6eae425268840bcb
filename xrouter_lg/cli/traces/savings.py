"""``xrouter savings``: what was spent, against what one card for everything would have cost."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xrouter_lg.cli.options import (
    STORE,
    AsJson,
    PricePool,
    Project,
    ScoreKey,
    Since,
    Store,
    Until,
    parse_when,
)
from xrouter_lg.cli.said import command, print_json
from xrouter_lg.cli.tables import console, facts_table, plain_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xrouter_lg.figures.bootstrap import Figure
    from xrouter_lg.judge.traffic.savings import Savings

app = typer.Typer()


@command(app, "savings", example="savings --store traces.db --since 7d --feedback liked")
def savings(
    store: Store = STORE,
    since: Since = "7d",
    until: Until = None,
    project: Project = None,
    feedback: ScoreKey = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            help="Tells kinds of requests apart; left out: checkpoints/production, if it is there."
        ),
    ] = None,
    pool: PricePool = None,
    cost_weight: Annotated[
        float | None,
        typer.Option(min=0.0, help="λ that tells the best card; left out: what traffic was asked."),
    ] = None,
    draws: Annotated[int, typer.Option(min=50, help="Bootstrap resamples of threads.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare what was spent with what every card alone would have cost for the same requests, with
    95 % intervals over threads.

    What another card would have cost is estimated from what it cost on requests of the same kind
    and length; doubly robust where the log knows the probabilities of its draws (exploration).
    The quality served less the card's is told from feedback where those probabilities are known,
    and is said to be unknown elsewhere. Compared first with the fixed card that the scores count on
    most at the traffic's cost weight.

    Exit code 0: compared; 1: no request to compare; 2: a file or a setting is wrong.
    """
    from xrouter_lg.judge.traffic.savings import read_savings

    found = read_savings(
        store,
        since=parse_when(since, "--since"),
        until=parse_when(until, "--until"),
        project=project,
        feedback=feedback,
        checkpoint=checkpoint,
        pool=pool,
        cost_weight=cost_weight,
        draws=draws,
        seed=seed,
    )
    if as_json:
        print_json(found.to_json())
    else:
        out = console()
        for part in savings_parts(found):
            out.print(part)
    if not found.compared:
        raise typer.Exit(1)


def savings_parts(found: Savings) -> Iterator[RenderableType]:
    """The comparison, for a terminal."""
    yield facts_table(dict(_facts(found)))
    if not found.cards:
        return
    table = plain_table(
        "card for everything", "USD", "saved", "quality", "net", "answered", "cost by"
    )
    for card in found.cards:
        table.add_row(
            f"{card.card}{' *' if card.card == found.against else ''}",
            figure_text(card.usd, ",.4f"),
            figure_text(card.saved_share, "+.0%"),
            "unknown" if card.score is None else figure_text(card.score, "+.3f"),
            "unknown" if card.utility is None else figure_text(card.utility, "+.3f"),
            f"{card.answered}",
            card.usd_by + (f"; could not take {card.barred}" if card.barred else ""),
        )
    yield table
    yield f"* {found.against_because}"
    yield (
        "quality: mean score of what was served less the card's, where the card could have been "
        f"drawn; net: less cost, at cost weight {found.cost_weight:g}"
    )
    for why, cards in unknown_quality(found).items():
        yield f"quality against {', '.join(cards)} is unknown: {why}"


def unknown_quality(found: Savings) -> dict[str, list[str]]:
    """Why differences in quality are unknown, and against which cards."""
    whys: dict[str, list[str]] = {}
    for card in found.cards:
        if card.score_unknown is not None:
            whys.setdefault(card.score_unknown, []).append(card.card)
    return whys


def _facts(found: Savings) -> Iterator[tuple[str, str]]:
    when = ""
    if found.first is not None and found.last is not None:
        first, last = (datetime.fromtimestamp(at, UTC) for at in (found.first, found.last))
        when = f", {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    yield "requests", f"{found.requests} of {found.threads} threads{when}"
    spent = f"USD {found.spent_usd:,.4f}, of it the router {found.router_usd:,.4f}"
    if found.unpriced:
        spent += f"; {found.unpriced} requests of unknown cost are not compared"
    if found.unanswered:
        spent += f"; {found.unanswered} unanswered ones save nothing"
    yield "spent", spent
    best = found.best
    if best is None:
        yield "saved", f"unknown: {found.against_because}"
        return
    yield (
        "saved",
        f"USD {figure_text(best.saved_usd, '+,.4f')}, {figure_text(best.saved_share, '+.0%')}, "
        f"against {best.card} for everything",
    )
    key = "" if found.feedback is None else f" by feedback {found.feedback!r}"
    quality = (
        f"unknown against it: {best.score_unknown}"
        if best.score is None
        else f"{figure_text(best.score, '+.3f')} against it"
    )
    yield "quality", f"{quality} ({found.scored} answers scored{key})"


def figure_text(found: Figure, form: str) -> str:
    """A figure with its interval."""
    if found.value is None:
        return "unknown"
    if found.low is None or found.high is None:
        return format(found.value, form)
    return f"{found.value:{form}} [{found.low:{form}}, {found.high:{form}}]"
