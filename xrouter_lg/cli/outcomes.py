"""``xrouter outcomes``: from traces to the table that training reads, and what a table holds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from xrouter_lg.cli.traces import Since, Store, Until, parse_when

app = typer.Typer(help="Turn traces into outcomes, and look at them.", no_args_is_help=True)

_NEEDS_CHECKOUT = (
    "xrouter: outcome tables need the repository's training/ folder, which the installed package "
    "does not have. From a checkout: pip install -e '.[cli,data]', then run this again there."
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("build")
def build(
    to: Annotated[Path, typer.Option("--to", help="Folder for the table's two Parquet files.")],
    store: Store = "xrouter_traces.db",
    since: Since = None,
    until: Until = None,
    project: Annotated[str | None, typer.Option(help="Recorded under this project.")] = None,
    pool: Annotated[
        Path | None, typer.Option(help="Pool file: names and prices of models in other graphs.")
    ] = None,
    verifiers: Annotated[Path | None, typer.Option(help="YAML list of verifiers.")] = None,
    references: Annotated[
        Path | None, typer.Option(help="JSON lines with prompt or prompt_id, and reference.")
    ] = None,
    feedback: Annotated[
        list[str] | None, typer.Option("--feedback", help="Feedback key that scores; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Build the outcome table of recorded traces."""
    with _said():
        from training.from_traces import outcomes_from_store, read_references
        from training.verifiers import Suite
        from xrouter_lg.pool import ModelPool
        from xrouter_lg.tracing.store import TraceStore

        suite = None if verifiers is None else Suite.from_yaml(verifiers)
        try:
            for proof in [] if suite is None else suite.check():
                proof.raise_if_bad()
            with TraceStore(store, create=False) as opened:
                report = outcomes_from_store(
                    opened,
                    to,
                    since=parse_when(since, "--since"),
                    until=parse_when(until, "--until"),
                    project=project,
                    pool=None if pool is None else ModelPool.from_yaml(pool),
                    suite=suite,
                    references=None if references is None else read_references(references),
                    feedback_keys=tuple(feedback or ()),
                )
        finally:
            if suite is not None:
                suite.close()
    said = report.to_dict()
    if as_json:
        typer.echo(json.dumps(said, indent=2, ensure_ascii=False))
        return
    typer.echo(
        f"{said['traces']} traces, {said['episodes']} episodes: {said['outcomes']} outcomes of "
        f"{said['prompts']} prompts in {to}, {said['scored']} scored, {said['unpriced']} without a "
        "known cost"
    )
    for what in ("skipped", "unscored"):
        for reason, count in said[what].items():
            typer.echo(f"  {what}: {count} × {reason}")


@app.command("summary")
def summary(
    paths: Annotated[list[Path], typer.Argument(help="A table's folder, or its files.")],
    as_json: AsJson = False,
) -> None:
    """Validate a table and show what it holds; exit code 1 if it can't be used."""
    begin = time.perf_counter()
    with _said():
        from training.outcomes import OutcomeTable

        table = OutcomeTable.load(*paths)
        found, report = table.summary(), table.validate()
    seconds = time.perf_counter() - begin
    if as_json:
        shown: dict[str, Any] = {**found.to_dict(), "problems": [str(p) for p in report.problems]}
        typer.echo(json.dumps({**shown, "seconds": round(seconds, 3)}, indent=2, default=str))
    else:
        typer.echo(str(found))
        for problem in report.problems:
            typer.echo(f"  {problem}")
        typer.echo(f"loaded, validated and summarised in {seconds:.2f} s")
    if not report.ok:
        raise typer.Exit(1)


@contextmanager
def _said() -> Iterator[None]:
    """Known errors end the command with one line and exit code 2."""
    if find_spec("training") is None:
        typer.echo(_NEEDS_CHECKOUT, err=True)
        raise typer.Exit(2)
    from training.outcomes import OutcomeError
    from training.verifiers import UnprovenVerifierError, VerifierConfigError
    from xrouter_lg.errors import XRouterError

    try:
        yield
    except (XRouterError, OutcomeError, VerifierConfigError, UnprovenVerifierError) as error:
        typer.echo(f"xrouter: {error}", err=True)
        raise typer.Exit(2) from None
