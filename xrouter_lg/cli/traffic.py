"""``xrouter shadow``, ``canary`` and ``drift``: what recorded traffic says of a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli.options import STORE, AsJson, Project, Since, Store, Until, parse_when
from xrouter_lg.cli.said import ExitCode, command, print_json
from xrouter_lg.cli.tables import console, plain_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from xrouter_lg.judge.traffic.arms import CanaryReport
    from xrouter_lg.judge.traffic.drift import DriftReport
    from xrouter_lg.judge.traffic.logged import Outcomes, Traffic
    from xrouter_lg.judge.traffic.shadow import ShadowReport

app = typer.Typer()

_EARLIER = 1000
"""Requests before the time looked at, from which the models behind the cards are known."""
_STYLES = {"ok": "green", "alarm": "bold red", "unknown": "dim"}
_FORMS = {
    "score": "+.4f",
    "usd": "+.6f",
    "utility": "+.4f",
    "fallbacks": "+.4f",
    "latency_s": "+.3f",
}

Feedback = Annotated[
    str | None, typer.Option(help="Feedback of this key, in [0, 1], scores the served answer.")
]
OutcomeFiles = Annotated[
    list[Path] | None,
    typer.Option("--outcomes", help="An outcome table: scores and costs by prompt and card."),
]


@dataclass(frozen=True)
class LoggedTraffic:
    """Which traffic is read, and what is known of other cards' outcomes."""

    store: Store = STORE
    since: Since = None
    until: Until = None
    project: Project = None
    feedback: Feedback = None
    outcomes: OutcomeFiles = None

    def read(self) -> tuple[Traffic, Outcomes]:
        """The traffic, and what is known of other cards' outcomes."""
        from xrouter_lg.judge.traffic.logged import read_outcomes, read_traffic
        from xrouter_lg.tracing.store.trace_store import TraceStore

        known = read_outcomes(self.outcomes) if self.outcomes else {}
        with TraceStore(self.store, create=False) as opened:
            traffic = read_traffic(
                opened,
                since=parse_when(self.since, "--since"),
                until=parse_when(self.until, "--until"),
                project=self.project,
                feedback=self.feedback,
                outcomes=known,
            )
        return traffic, known


@dataclass(frozen=True)
class Weighing:
    """How utilities and their intervals are computed."""

    checkpoint: Annotated[
        Path | None, typer.Option(help="Takes the unit of the cost weight from its manifest.")
    ] = None
    c_ref_usd: Annotated[
        float | None,
        typer.Option(
            "--c-ref-usd", min=1e-12, help="The cost weight's unit, instead of --checkpoint."
        ),
    ] = None
    cost_weight: Annotated[
        float | None,
        typer.Option(min=0.0, help="λ of the utility; left out: what traffic was asked."),
    ] = None
    draws: Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")] = 1000
    seed: Annotated[int, typer.Option(help="Of the resamples.")] = 0

    def settings(self) -> dict[str, Any]:
        """The unit of the cost weight (USD) is None where nobody told."""
        unit = self.c_ref_usd
        if unit is None and self.checkpoint is not None:
            from xrouter_lg.checkpoints.aliases import resolve_checkpoint
            from xrouter_lg.checkpoints.folder import read_manifest

            unit = read_manifest(resolve_checkpoint(self.checkpoint)).c_ref_usd
        return {
            "c_ref_usd": unit,
            "cost_weight": self.cost_weight,
            "draws": self.draws,
            "seed": self.seed,
        }


@command(app, "shadow", example="shadow --store traces.db --since 7d --feedback liked")
def shadow(
    logged: LoggedTraffic,
    weighing: Weighing,
    version: Annotated[
        str | None, typer.Option(help="Version of the shadow; left out: the newest one seen.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a shadow policy against the one that served.

    Where both chose alike the outcome is the same; where not, an outcome table (`xrouter
    backfill`) may know the shadow's. Logged propensities give off-policy estimates, if the
    served policy explored. What can't be concluded is refused, with what would help.

    Exit code 0: judged; 2: a file or a setting is wrong, or nothing was shadowed.
    """
    from xrouter_lg.judge.traffic.shadow import judge_shadow

    traffic, known = logged.read()
    report = judge_shadow(traffic.requests, version=version, outcomes=known, **weighing.settings())
    _show(report, as_json, _shadow_lines)


@command(app, "canary", example="canary --store traces.db --feedback liked")
def canary(
    logged: LoggedTraffic,
    weighing: Weighing,
    salt: Annotated[
        str | None, typer.Option(help="Of the experiment; left out: the newest one seen.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare main and candidate of a canary: score, cost, utility, fallbacks, latency.

    Intervals are over threads, since a thread stays on its side. A difference needs thirty
    threads in either arm.

    Exit code 0: compared; 2: a file or a setting is wrong, or there was no canary.
    """
    from xrouter_lg.judge.traffic.arms import judge_arms

    traffic, _ = logged.read()
    report = judge_arms(traffic.requests, salt=salt, **weighing.settings())
    _show(report, as_json, _canary_lines)


@command(app, "drift", example="drift --checkpoint checkpoints/production --store traces.db")
def drift(
    checkpoint: Annotated[Path, typer.Option(help="Folder of the checkpoint, or an alias.")],
    store: Store = STORE,
    since: Since = "7d",
    until: Until = None,
    project: Project = None,
    pool: Annotated[
        Path | None, typer.Option(help="The pool file that serves; left out: told by the traffic.")
    ] = None,
    feedback: Feedback = None,
    outcomes: OutcomeFiles = None,
    as_json: AsJson = False,
) -> None:
    """Compare recent traffic with what a checkpoint was trained on: cards, the models behind
    them, prices, prompts, and whether cards succeed as often as was expected.

    Exit code 0: nothing moved, as far as can be told; 3: an alarm; 2: a file or a setting is
    wrong.
    """
    from xrouter_lg.checkpoints.aliases import resolve_checkpoint
    from xrouter_lg.checkpoints.folder import read_manifest
    from xrouter_lg.judge.traffic.drift import find_drift
    from xrouter_lg.policies.utility import load_head
    from xrouter_lg.pool.pool import ModelPool
    from xrouter_lg.tracing.store.trace_store import TraceStore

    folder = resolve_checkpoint(checkpoint)
    manifest = read_manifest(folder)
    traffic, _ = LoggedTraffic(store, since, until, project, feedback, outcomes).read()
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
    _show(report, as_json, _drift_lines)
    if report.alarm:
        raise typer.Exit(ExitCode.REFUSED)


def _show(report: Any, as_json: bool, lines: Callable[[Any], Iterator[RenderableType]]) -> None:
    if as_json:
        print_json(report.to_json())
        return
    out = console()
    for line in lines(report):
        out.print(line)


def _shadow_lines(report: ShadowReport) -> Iterator[RenderableType]:
    from rich.markup import escape

    status = ", ".join(f"{count} {name}" for name, count in report.status.items())
    yield escape(
        f"{report.policy} {report.version}: {report.requests} requests of {report.threads} "
        f"threads ({status})"
    )
    cards = plain_table("card", "served", "shadow")
    for name in sorted({*report.served_shares, *report.shadow_shares}):
        shares = (report.served_shares.get(name, 0.0), report.shadow_shares.get(name, 0.0))
        cards.add_row(escape(name), *(f"{share:.1%}" for share in shares))
    yield cards
    table = plain_table(header=False)
    table.add_row("agreement", _figure(report.agreement, ".3f"))
    table.add_row("served, USD per request", _figure(report.served_usd, ".6f"))
    table.add_row("shadow, USD per request", _figure(report.shadow_usd, ".6f"))
    table.add_row("difference", _figure(report.usd_difference, "+.6f"))
    by = ", ".join(f"{name} ({count})" for name, count in report.usd_by.items()) or "-"
    table.add_row("the shadow's cost is by", by)
    for name, found in (("score", report.score), ("utility", report.utility)):
        said = _refused(found.refused) or _figure(found.value)
        table.add_row(f"{name}, shadow minus served", said)
    for name, estimate in (
        ("score", report.off_policy_score),
        ("utility", report.off_policy_utility),
    ):
        if estimate is not None:
            said = _refused(estimate.refused) or (
                f"{_figure(estimate.snips, '.4f')} (served "
                f"{_figure(estimate.logged, '.4f')}; worth {estimate.effective:.0f} requests)"
            )
            table.add_row(f"{name}, off-policy", said)
    paid = f"{report.shadow_paid_usd:.6f}"
    if report.shadow_unpriced:
        paid += f", and {report.shadow_unpriced} proposals of unknown cost"
    table.add_row("paid for its proposals, USD", paid)
    if report.latency_s is not None:
        median, slow = (1000 * value for value in report.latency_s)
        table.add_row("its proposals took", f"{median:.0f} ms, 95 % of them {slow:.0f} ms at most")
    yield table
    yield from _notes(report.notes)


def _canary_lines(report: CanaryReport) -> Iterator[RenderableType]:
    from rich.markup import escape

    yield escape(f"experiment {report.salt!r}, candidate's share {report.share:g}")
    for name, arm in (("main", report.main), ("candidate", report.candidate)):
        policies = ", ".join(arm.policies)
        yield escape(f"{name}: {policies}: {arm.requests} requests, {arm.threads} threads")
    table = plain_table("per request", "main", "candidate", "candidate - main")
    for name, form in _FORMS.items():
        plain = form.lstrip("+")
        table.add_row(
            name,
            _figure(report.main.means[name], plain),
            _figure(report.candidate.means[name], plain),
            _refused(report.refused.get(name)) or _figure(report.differences[name], form),
        )
    yield table
    yield from _notes(report.notes)


def _drift_lines(report: DriftReport) -> Iterator[RenderableType]:
    from rich.markup import escape

    yield (
        f"checkpoint {report.checkpoint}: {report.requests} requests of {report.threads} threads, "
        f"{report.decided} decided by it"
    )
    table = plain_table(header=False)
    for check in report.checks:
        style = _STYLES[check.status]
        table.add_row(f"[{style}]{check.status}[/{style}]", escape(check.name), escape(check.said))
    yield table
    for check in report.checks:
        if check.status == "alarm":
            yield escape(f"{check.name}: {check.advice}")


def _figure(figure: Any, form: str = "+.4f") -> str:
    """A figure with its interval; what is unknown is a dash."""
    if figure is None or figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:{form}}"
    return f"{figure.value:{form}} [{figure.low:{form}}, {figure.high:{form}}]"


def _refused(why: str | None) -> str:
    from rich.markup import escape

    return f"refused: {escape(why)}" if why else ""


def _notes(notes: Any) -> Iterator[RenderableType]:
    from rich.text import Text

    for note in notes:
        yield Text(note, style="yellow")
