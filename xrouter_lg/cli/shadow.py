"""``xrouter shadow``: judge a policy by what it proposed beside the one that decided."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli import _live
from xrouter_lg.cli._said import said

if TYPE_CHECKING:
    from xrouter_lg.judge.traffic.shadow import ShadowReport

app = typer.Typer()


@app.command()
def shadow(
    store: _live.Store = "xrouter_traces.db",
    version: Annotated[
        str | None, typer.Option(help="Version of the shadow; left out: the newest one seen.")
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
    """Judge a shadow policy against the one that served.

    Where both chose alike the outcome is the same; where not, an outcome table (`xrouter
    backfill`) may know the shadow's. Logged propensities give off-policy estimates, if the
    served policy explored. What can't be concluded is refused, with what would help.

    Exit code 0: judged; 2: a file or a setting is wrong, or nothing was shadowed.
    """
    _live.needs_checkout()
    with said():
        from xrouter_lg.judge.traffic.shadow import judge_shadow

        traffic, known = _live.read(store, since, until, project, feedback, outcomes)
        report = judge_shadow(
            traffic.requests,
            version=version,
            outcomes=known,
            cost_weight=cost_weight,
            c_ref_usd=_live.unit_of(checkpoint, c_ref_usd),
            draws=draws,
            seed=seed,
        )
    _live.show(report, as_json, _print)


def _print(report: ShadowReport) -> None:
    from rich.markup import escape
    from rich.table import Table

    from xrouter_lg.cli.trace_tables import console

    out = console()
    status = ", ".join(f"{count} {name}" for name, count in report.status.items())
    out.print(
        escape(
            f"{report.policy} {report.version}: {report.requests} requests of {report.threads} "
            f"threads ({status})"
        )
    )
    cards = Table("card", "served", "shadow", box=None, header_style="bold", pad_edge=False)
    for name in sorted({*report.served_shares, *report.shadow_shares}):
        shares = (report.served_shares.get(name, 0.0), report.shadow_shares.get(name, 0.0))
        cards.add_row(escape(name), *(f"{share:.1%}" for share in shares))
    out.print(cards)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row("agreement", _live.shown(report.agreement, ".3f"))
    table.add_row("served, USD per request", _live.shown(report.served_usd, ".6f"))
    table.add_row("shadow, USD per request", _live.shown(report.shadow_usd, ".6f"))
    table.add_row("difference", _live.shown(report.usd_difference, "+.6f"))
    table.add_row("the shadow's cost is by", _counted(report.usd_by))
    for name, found in (("score", report.score), ("utility", report.utility)):
        table.add_row(
            f"{name}, shadow minus served",
            f"refused: {escape(found.refused)}" if found.refused else _live.shown(found.value),
        )
    for name, estimate in (
        ("score", report.off_policy_score),
        ("utility", report.off_policy_utility),
    ):
        if estimate is not None:
            value = f"refused: {escape(estimate.refused)}" if estimate.refused else ""
            value = value or (
                f"{_live.shown(estimate.snips, '.4f')} (served "
                f"{_live.shown(estimate.logged, '.4f')}; worth {estimate.effective:.0f} requests)"
            )
            table.add_row(f"{name}, off-policy", value)
    paid = f"{report.shadow_paid_usd:.6f}"
    if report.shadow_unpriced:
        paid += f", and {report.shadow_unpriced} proposals of unknown cost"
    table.add_row("paid for its proposals, USD", paid)
    if report.latency_s is not None:
        median, slow = (1000 * value for value in report.latency_s)
        table.add_row("its proposals took", f"{median:.0f} ms, 95 % of them {slow:.0f} ms at most")
    out.print(table)
    for note in report.notes:
        out.print(escape(note), style="yellow")


def _counted(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "-"
