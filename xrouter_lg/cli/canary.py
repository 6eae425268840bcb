"""``xrouter canary``: compare the arms of a canary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from xrouter_lg.cli import _live
from xrouter_lg.cli._said import said

if TYPE_CHECKING:
    from xrouter_lg.judge.traffic.arms import CanaryReport

app = typer.Typer()

_FORMS = {
    "score": "+.4f",
    "usd": "+.6f",
    "utility": "+.4f",
    "fallbacks": "+.4f",
    "latency_s": "+.3f",
}


@app.command()
def canary(
    store: _live.Store = "xrouter_traces.db",
    salt: Annotated[
        str | None, typer.Option(help="Of the experiment; left out: the newest one seen.")
    ] = None,
    since: _live.Since = None,
    until: _live.Until = None,
    project: _live.Project = None,
    feedback: _live.Feedback = None,
    outcomes: _live.OutcomeFiles = None,
    checkpoint: _live.Unit = None,
    c_ref_usd: _live.CRef = None,
    cost_weight: _live.CostWeight = None,
    draws: _live.Draws = 1000,
    seed: _live.Seed = 0,
    as_json: _live.AsJson = False,
) -> None:
    """Compare main and candidate of a canary: score, cost, utility, fallbacks, latency.

    Intervals are over threads, since a thread stays on its side. A difference needs thirty
    threads in either arm.

    Exit code 0: compared; 2: a file or a setting is wrong, or there was no canary.
    """
    _live.needs_checkout()
    with said():
        from xrouter_lg.judge.traffic.arms import judge_arms

        traffic, _ = _live.read(store, since, until, project, feedback, outcomes)
        report = judge_arms(
            traffic.requests,
            salt=salt,
            cost_weight=cost_weight,
            c_ref_usd=_live.unit_of(checkpoint, c_ref_usd),
            draws=draws,
            seed=seed,
        )
    _live.show(report, as_json, _print)


def _print(report: CanaryReport) -> None:
    from rich.markup import escape
    from rich.table import Table

    from xrouter_lg.cli.trace_tables import console

    out = console()
    out.print(escape(f"experiment {report.salt!r}, candidate's share {report.share:g}"))
    for name, arm in (("main", report.main), ("candidate", report.candidate)):
        policies = ", ".join(arm.policies)
        out.print(escape(f"{name}: {policies}: {arm.requests} requests, {arm.threads} threads"))
    table = Table(
        "per request",
        "main",
        "candidate",
        "candidate - main",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for name, form in _FORMS.items():
        plain = form.lstrip("+")
        refused = report.refused.get(name)
        gap = f"refused: {escape(refused)}" if refused else None
        table.add_row(
            name,
            _live.shown(report.main.means[name], plain),
            _live.shown(report.candidate.means[name], plain),
            gap or _live.shown(report.differences[name], form),
        )
    out.print(table)
    for note in report.notes:
        out.print(escape(note), style="yellow")
