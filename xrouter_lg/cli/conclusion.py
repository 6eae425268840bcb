"""What follows from one-sided outcomes, as a table and in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xrouter_lg.judge.one_sided import Conclusion

_SHOWN = 12
"""Families in the table; the JSON has them all."""


def print_conclusion(concluded: Conclusion) -> None:
    """The overlap of families and cards, the conclusion, and what would settle the rest."""
    from rich.markup import escape
    from rich.table import Table

    from xrouter_lg.cli.tables import console
    from xrouter_lg.value.overlap import by_family

    out = console()
    cards, families = by_family(concluded.overlap)
    table = Table(
        title="Overlap: scored answers (what they are worth, where it differs), error of the score",
        box=None,
        pad_edge=False,
    )
    for name in ("kind of request", "share", *cards):
        table.add_column(escape(name))
    for family, rows in families[:_SHOWN]:
        cells = []
        for row in rows:
            worth = "" if round(row.worth) == row.tries else f" ({row.worth:.0f})"
            cells.append(f"{row.tries or '-'}{worth} ±{row.error:.2f}")
        table.add_row(escape(family), f"{rows[0].share:.0%}", *cells)
    out.print(table)
    if len(families) > _SHOWN:
        out.print(f"... and {len(families) - _SHOWN} smaller kinds")
    for change in concluded.changes:
        out.print(escape(f"changed: {change}"))
    for said in concluded.left_out:
        out.print(escape(said))
    out.print(
        f"{concluded.requests} logged requests, {concluded.scored} scored, {concluded.drawn} of "
        f"them drawn or compared; at cost weight {concluded.cost_weight:g}:"
    )
    use = {
        "checkpoint": "promote",
        "fixed": f"use {concluded.card} for every request",
        "as it is": "keep what is",
    }[concluded.use]
    out.print(escape(f"{use}: {concluded.reason}"))
    if concluded.to_settle:
        out.print("What would tell most:")
        for line in concluded.to_settle:
            out.print(escape(f"  {line}"))
