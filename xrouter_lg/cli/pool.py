"""``xrouter pool``: check a pool file."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xrouter_lg.cli.options import AsJson
from xrouter_lg.cli.said import ExitCode, command, print_json
from xrouter_lg.cli.tables import plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from xrouter_lg.calls.check_pool import CardFacts, PoolReport

app = typer.Typer(help="Check and show a pool of models.", no_args_is_help=True)


@app.callback()
def pool() -> None:
    """Check and show a pool of models."""


@command(app, "check", example="pool check pool.yaml --live")
def check(
    file: Annotated[Path, typer.Argument(help="The pool file (YAML).")],
    live: Annotated[
        bool, typer.Option("--live", help="Call each card once; costs a few tokens.")
    ] = False,
    as_json: AsJson = False,
    timeout: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds for a live call, in place of each card's own."),
    ] = None,
) -> None:
    """Validate a pool file; say what is missing, out of date or broken.

    Exit code 0: usable (warnings allowed); 1: a card is broken or a live call failed; 2: the
    file can't be used.
    """
    from xrouter_lg.calls.check_pool import call_each, check_pool
    from xrouter_lg.errors import PoolError
    from xrouter_lg.pool.pool import ModelPool

    try:
        read = ModelPool.from_yaml(file, reload=False)
    except PoolError as error:
        if not as_json:
            raise
        print_json({"ok": False, "error": str(error)})
        raise typer.Exit(ExitCode.WRONG) from None
    results = asyncio.run(call_each(read, timeout_s=timeout)) if live else None
    report = check_pool(read, results)
    if as_json:
        print_json(report.to_dict())
    else:
        _print_report(report, live=live)
    if not report.ok:
        raise typer.Exit(ExitCode.BAD)


def _print_report(report: PoolReport, *, live: bool) -> None:
    from rich.markup import escape

    from xrouter_lg.cli.tables import console

    out = console(fitted=False)
    out.print(_card_table(report))
    if live:
        out.print(_live_table(report))
    for level, mark in (("error", "[red]error[/red]"), ("warning", "[yellow]warning[/yellow]")):
        for finding in report.findings:
            if finding.level == level:
                out.print(f"{mark}  {escape(finding.text)}", soft_wrap=True)
    errors = sum(finding.level == "error" for finding in report.findings)
    warnings = len(report.findings) - errors
    out.print(
        f"{len(report.cards)} card(s), {errors} error(s), {warnings} warning(s); prices "
        f"compared with {report.price_list}; fingerprint {report.fingerprint}",
        soft_wrap=True,
        highlight=False,
    )


def _card_table(report: PoolReport) -> Table:
    from rich.markup import escape

    table = plain_table()
    table.caption = "* default card"
    if any(card.from_profile for card in report.cards):
        table.caption += "; (in parentheses) by LangChain's profile of the model"
    for name in ("card", "model"):
        table.add_column(name, overflow="fold")
    table.add_column("USD/M tokens\nin/out/cached", no_wrap=True)
    table.add_column("price from", overflow="fold")
    for name in ("window", "max out"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("can", no_wrap=True)
    table.add_column("key set", overflow="fold")
    for card in report.cards:
        price = card.price or {}
        rates = (price.get(kind, "-") for kind in ("input", "output", "cached_input"))
        cells = (
            f"{card.name} *" if card.default else card.name,
            f"{card.provider}:{card.model}" if card.provider else card.model,
            "/".join(rates) if card.price else "unknown",
            card.price_source or "-",
            _said_by(card, "context_window", [str(card.context_window or "-")]),
            "-" if card.max_output_tokens is None else str(card.max_output_tokens),
            _said_by(card, "capabilities", card.capabilities or ["-"]),
            _key_cell(card),
        )
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _said_by(card: CardFacts, field: str, values: Iterable[str]) -> str:
    """A line a value; in parentheses where a profile says it and the pool file does not."""
    form = "({})" if field in card.from_profile else "{}"
    return "\n".join(form.format(value) for value in values)


def _key_cell(card: CardFacts) -> str:
    if card.key_set is None:
        return "-"
    state = "yes" if card.key_set else "no"
    return f"{state}\n{card.key_variable}" if card.key_variable else state


def _live_table(report: PoolReport) -> Table:
    from rich.markup import escape

    table = plain_table()
    table.add_column("live", overflow="fold")
    table.add_column("result", overflow="fold")
    for name in ("ms", "tokens", "USD"):
        table.add_column(name, justify="right")
    table.add_column("served", overflow="fold")
    for card in report.cards:
        live = card.live
        if live is None:
            table.add_row(escape(card.name), "not called", "-", "-", "-", "-")
            continue
        known = live.input_tokens is not None
        cells = (
            card.name,
            "ok" if live.ok else str(live.error),
            f"{live.latency_s * 1000:.0f}",
            f"{live.input_tokens}+{live.output_tokens}" if known else "unknown",
            live.cost_usd or "unknown",
            live.served_model or "-",
        )
        table.add_row(*(escape(cell) for cell in cells))
    return table
