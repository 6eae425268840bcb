"""``xrouter keys``: who may use a server, how often and for how much."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from xrouter_lg.cli.options import AsJson
from xrouter_lg.cli.said import command, echo, print_json

app = typer.Typer(help="Keys of a server: add, list, revoke.", no_args_is_help=True)

Keys = Annotated[
    str, typer.Option("--keys", envvar="XROUTER_KEYS", help="Path or URL of the key store.")
]
Name = Annotated[str, typer.Argument(help="Whose key it is.")]


@app.callback()
def keys() -> None:
    """Keys of a server: add, list, revoke."""


@command(app, "add", example="keys add alice --budget-usd 5 --per day --rpm 60")
def add(
    name: Name,
    store: Keys = "xrouter_keys.db",
    budget_usd: Annotated[
        float | None, typer.Option(help="USD per period; no limit without.")
    ] = None,
    per: Annotated[str, typer.Option(help="The budget's period: day, month or total.")] = "month",
    rpm: Annotated[int | None, typer.Option(help="Requests per minute; no limit without.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it, once: only its hash is kept."""
    from xrouter_lg.serve.access.keys import KeyStore

    text = KeyStore(store).add(name, budget_usd=budget_usd, period=per, requests_per_minute=rpm)
    if as_json:
        print_json({"name": name, "key": text})
    else:
        echo(text)


@command(app, "list", example="keys list --keys keys.db")
def list_keys(store: Keys = "xrouter_keys.db", as_json: AsJson = False) -> None:
    """Names, limits and what was spent in the current period."""
    from xrouter_lg.serve.access.keys import KeyStore

    opened = KeyStore(store)
    now = time.time()
    rows = [
        {
            "name": key.name,
            "id": key.id,
            "budget_usd": None if key.budget_usd is None else format(key.budget_usd, "f"),
            "period": key.period,
            "spent_usd": format(opened.spent(key, now), "f"),
            "requests_per_minute": key.requests_per_minute,
            "revoked": key.revoked,
        }
        for key in opened.load().values()
    ]
    if as_json:
        print_json(rows)
        return
    from xrouter_lg.cli.tables import console, plain_table

    table = plain_table()
    for name in ("name", "USD", "of", "per", "per minute", ""):
        table.add_column(name)
    for row in rows:
        table.add_row(
            str(row["name"]),
            str(row["spent_usd"]),
            str(row["budget_usd"] or "-"),
            str(row["period"]),
            str(row["requests_per_minute"] or "-"),
            "revoked" if row["revoked"] else "",
        )
    console(fitted=False).print(table)


@command(app, "revoke", example="keys revoke alice --keys keys.db")
def revoke(name: Name, store: Keys = "xrouter_keys.db", as_json: AsJson = False) -> None:
    """Let nobody in by that key any more; running servers follow within seconds."""
    from xrouter_lg.serve.access.keys import KeyStore

    KeyStore(store).revoke(name)
    if as_json:
        print_json({"name": name, "revoked": True})
    else:
        echo(f"{name} is revoked")
