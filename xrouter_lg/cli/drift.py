"""``xrouter drift``: has traffic moved away from what a checkpoint was trained on?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xrouter_lg.cli import _live
from xrouter_lg.cli._said import said
from xrouter_lg.cli.traces import parse_when

if TYPE_CHECKING:
    from xrouter_lg.judge.traffic.drift import DriftReport

app = typer.Typer()

_EARLIER = 1000
"""Requests before the time looked at, from which the models behind the cards are known."""
_STYLES = {"ok": "green", "alarm": "bold red", "unknown": "dim"}


@app.command()
def drift(
    checkpoint: Annotated[Path, typer.Option(help="Folder of the checkpoint, or an alias.")],
    store: _live.Store = "xrouter_traces.db",
    since: _live.Since = "7d",
    until: _live.Until = None,
    project: _live.Project = None,
    pool: Annotated[
        Path | None, typer.Option(help="The pool file that serves; left out: told by the traffic.")
    ] = None,
    feedback: _live.Feedback = None,
    outcomes: _live.OutcomeFiles = None,
    as_json: _live.AsJson = False,
) -> None:
    """Compare recent traffic with what a checkpoint was trained on: cards, the models behind
    them, prices, prompts, and whether cards succeed as often as was expected.

    Exit code 0: nothing moved, as far as can be told; 3: an alarm; 2: a file or a setting is
    wrong.
    """
    _live.needs_checkout()
    with said():
        from xrouter_lg.checkpoints.aliases import resolve_checkpoint
        from xrouter_lg.checkpoints.folder import read_manifest
        from xrouter_lg.judge.traffic.drift import find_drift
        from xrouter_lg.policies.utility import load_head
        from xrouter_lg.pool.pool import ModelPool
        from xrouter_lg.tracing.store.trace_store import TraceStore

        folder = resolve_checkpoint(checkpoint)
        manifest = read_manifest(folder)
        traffic, _ = _live.read(store, since, until, project, feedback, outcomes)
        before = parse_when(since, "--since")
        earlier = []
        if before is not None:
            with TraceStore(store, create=False) as opened:
                rows = opened.routes(until=before, project=project, limit=_EARLIER)
                earlier = [row.record for row in rows]
        report = find_drift(
            manifest,
            load_head(manifest, folder),
            traffic.requests,
            pool=None if pool is None else ModelPool.from_yaml(pool, reload=False),
            earlier=earlier,
        )
    _live.show(report, as_json, _print)
    if report.alarm:
        raise typer.Exit(3)


def _print(report: DriftReport) -> None:
    from rich.markup import escape
    from rich.table import Table

    from xrouter_lg.cli.trace_tables import console

    out = console()
    out.print(
        f"checkpoint {report.checkpoint}: {report.requests} requests of {report.threads} threads, "
        f"{report.decided} decided by it"
    )
    table = Table(box=None, show_header=False, pad_edge=False)
    for check in report.checks:
        style = _STYLES[check.status]
        table.add_row(f"[{style}]{check.status}[/{style}]", escape(check.name), escape(check.said))
    out.print(table)
    for check in report.checks:
        if check.status == "alarm":
            out.print(escape(f"{check.name}: {check.advice}"))
