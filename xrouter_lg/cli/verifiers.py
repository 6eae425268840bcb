"""``xrouter verifiers``: let graders prove themselves before they grade."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli.options import AsJson
from xrouter_lg.cli.said import ExitCode, command, print_json

if TYPE_CHECKING:
    from xrouter_lg.verifiers import CheckReport, Verifier

app = typer.Typer(help="Check the graders that score answers.", no_args_is_help=True)


@app.callback()
def verifiers() -> None:
    """Check the graders that score answers."""


@command(app, "check", example="verifiers check verifiers.yaml")
def check(
    spec: Annotated[
        Path | None, typer.Argument(help="YAML list of verifiers; left out: the built-in ones.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge answers whose verdict is known; exit code 1 if any verifier misjudges one."""
    rows = [
        _row(label, verifier, verifier.check() if verifier is not None else None, skipped)
        for label, verifier, skipped in _verifiers(spec)
    ]
    if as_json:
        print_json(rows)
    else:
        _print(rows)
    if any(row["ok"] is False for row in rows):
        raise typer.Exit(ExitCode.BAD)


def _verifiers(spec: Path | None) -> Iterator[tuple[str, Verifier | None, str]]:
    """Label, verifier, and why there is none; each is closed before the next one is built."""
    from xrouter_lg.errors import MissingExtraError
    from xrouter_lg.verifiers import Suite, build, names, needs_arguments

    if spec is not None:
        with Suite.from_yaml(spec) as suite:
            for rule in suite.rules:
                where = ", ".join(rule.where)
                label = rule.verifier.name + ("" if where == "*" else f" ({where})")
                yield label, rule.verifier, ""
        return
    for name in names():
        if needs_arguments(name):
            yield name, None, "needs arguments: name it in a YAML file"
            continue
        try:
            verifier = build(name)
        except MissingExtraError as error:
            yield name, None, str(error)
            continue
        with verifier:
            yield name, verifier, ""


def _row(
    label: str, verifier: Verifier | None, report: CheckReport | None, skipped: str
) -> dict[str, Any]:
    if report is None:
        return {"verifier": label, "ok": None, "cases": [], "problems": [], "skipped": skipped}
    cases = [
        {
            "kind": "good" if result.case.good else "bad",
            "answer": result.case.answer,
            "ok": result.ok,
            **result.verdict.to_dict(),
        }
        for result in report.results
    ]
    problems = report.problems
    return {"verifier": label, "ok": report.ok, "cases": cases, "problems": problems, "skipped": ""}


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from xrouter_lg.cli.tables import console

    table = Table("verifier", "good", "bad", "result")
    for row in rows:
        counts = [
            f"{sum(c['ok'] for c in row['cases'] if c['kind'] == kind)}/"
            f"{sum(c['kind'] == kind for c in row['cases'])}"
            if row["ok"] is not None
            else ""
            for kind in ("good", "bad")
        ]
        said = {True: "proved", False: "; ".join(row["problems"]), None: row["skipped"]}
        style = {True: "green", False: "red", None: "dim"}
        # As Text: an answer with brackets in it is no markup.
        table.add_row(row["verifier"], *counts, Text(said[row["ok"]], style=style[row["ok"]]))
    console(fitted=False).print(table)
