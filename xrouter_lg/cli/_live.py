"""What the commands about live traffic share: options, reading, and how figures are printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli.traces import parse_when

if TYPE_CHECKING:
    from xrouter_lg.judge.traffic.logged import Outcomes, Traffic

_NEEDS_CHECKOUT = (
    "xrouter: judging live traffic lives in the repository's training/ folder, which the installed "
    "package does not have. From a checkout: pip install -e '.[cli,data]', then run this there."
)

Store = Annotated[
    str, typer.Option(envvar="XROUTER_TRACES", help="Path or URL of the trace store.")
]
Since = Annotated[str | None, typer.Option(help="Not older than, e.g. 12h, 7d, 2w or 2026-11-01.")]
Until = Annotated[str | None, typer.Option(help="Older than, in the same forms.")]
Project = Annotated[str | None, typer.Option(help="Recorded under this project.")]
Feedback = Annotated[
    str | None, typer.Option(help="Feedback of this key, in [0, 1], scores the served answer.")
]
OutcomeFiles = Annotated[
    list[Path] | None,
    typer.Option("--outcomes", help="An outcome table: scores and costs by prompt and card."),
]
CostWeight = Annotated[
    float | None, typer.Option(min=0.0, help="λ of the utility; left out: what traffic was asked.")
]
CRef = Annotated[
    float | None,
    typer.Option("--c-ref-usd", min=1e-12, help="The cost weight's unit, instead of --checkpoint."),
]
Unit = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="Takes the unit of the cost weight from its manifest."),
]
Draws = Annotated[int, typer.Option(min=100, help="Bootstrap resamples.")]
Seed = Annotated[int, typer.Option(help="Of the resamples.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def needs_checkout() -> None:
    """End the command with exit code 2 where there is no checkout."""
    if find_spec("training") is None or find_spec("xrouter_lg.judge") is None:
        typer.echo(_NEEDS_CHECKOUT, err=True)
        raise typer.Exit(2)


def read(
    store: str,
    since: str | None,
    until: str | None,
    project: str | None,
    feedback: str | None,
    outcomes: Sequence[Path] | None,
) -> tuple[Traffic, Outcomes]:
    """The traffic, and what is known of other cards' outcomes."""
    from xrouter_lg.judge.traffic.logged import read_outcomes, read_traffic
    from xrouter_lg.tracing.store.trace_store import TraceStore

    known = read_outcomes(outcomes) if outcomes else {}
    with TraceStore(store, create=False) as opened:
        traffic = read_traffic(
            opened,
            since=parse_when(since, "--since"),
            until=parse_when(until, "--until"),
            project=project,
            feedback=feedback,
            outcomes=known,
        )
    return traffic, known


def unit_of(checkpoint: Path | None, c_ref_usd: float | None) -> float | None:
    """The unit of the cost weight (USD), None where nobody told."""
    if c_ref_usd is not None or checkpoint is None:
        return c_ref_usd
    from xrouter_lg.checkpoints.aliases import resolve_checkpoint
    from xrouter_lg.checkpoints.folder import read_manifest

    return read_manifest(resolve_checkpoint(checkpoint)).c_ref_usd


def shown(figure: Any, form: str = "+.4f") -> str:
    """A figure with its interval; what is unknown is a dash."""
    if figure is None or figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{figure.value:{form}}"
    return f"{figure.value:{form}} [{figure.low:{form}}, {figure.high:{form}}]"


def show(report: Any, as_json: bool, tables: Callable[[Any], None]) -> None:
    """Print a report as JSON, or as its tables."""
    if as_json:
        typer.echo(json.dumps(report.to_json(), indent=2, ensure_ascii=False))
    else:
        tables(report)
