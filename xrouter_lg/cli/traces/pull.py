"""``xrouter traces pull`` and ``push``: the local store and LangSmith."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli.options import STORE, AsJson, Store, moment, parse_when
from xrouter_lg.cli.said import command, echo, print_json
from xrouter_lg.cli.tables import bars, console, facts_table, plain_table

if TYPE_CHECKING:
    from xrouter_lg.langsmith.progress import OnProgress, PullSummary

_INTERRUPTED = "stopped; what was finished is kept. Run it again to continue."
_SHOWN = 10

Project = Annotated[
    str, typer.Option(envvar="LANGSMITH_PROJECT", help="Name or id of the LangSmith project.")
]
Endpoint = Annotated[
    str | None,
    typer.Option(envvar="LANGSMITH_ENDPOINT", help="LangSmith's address; the hosted one if none."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]


app = typer.Typer()
"""Its commands are those of ``xrouter traces``."""


@command(
    app, "pull", example="traces pull --project support-bot --since 7d", interrupted=_INTERRUPTED
)
def pull(
    project: Project,
    since: Annotated[
        str, typer.Option(help="How far back, e.g. 12h, 7d, 2w or 2026-11-01.")
    ] = "7d",
    until: Annotated[
        str | None, typer.Option(help="Up to, in the same forms; now if none.")
    ] = None,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="Only traces in which a run has this tag; may be given again."),
    ] = None,
    routed: Annotated[
        bool, typer.Option("--routed", help="Only traces that went through a router.")
    ] = False,
    store: Store = STORE,
    endpoint: Endpoint = None,
    full: Annotated[
        bool, typer.Option("--full", help="Read again what is in the store already.")
    ] = False,
    overlap: Annotated[
        str, typer.Option(help="How late a run may arrive and still be found by the next pull.")
    ] = "1h",
    redact: Annotated[
        list[str] | None,
        typer.Option(help="Mask what matches this pattern before storing; may be given again."),
    ] = None,
    pool: Annotated[
        Path | None, typer.Option(help="Pool file whose prices LangSmith's costs are checked by.")
    ] = None,
    page_size: Annotated[
        int, typer.Option(min=1, max=1000, help="Runs per request (the first API gives 100).")
    ] = 200,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Pull traces and feedback from LangSmith into the local store: what is new since last time.

    It may be stopped and killed at any time; the next one continues. The key is read from
    LANGSMITH_API_KEY.
    """
    from xrouter_lg.langsmith.connection import LangSmith
    from xrouter_lg.langsmith.options import PullOptions
    from xrouter_lg.langsmith.pull import pull as pull_traces
    from xrouter_lg.pool.pool import ModelPool
    from xrouter_lg.tracing.runs.redact import redact_patterns
    from xrouter_lg.tracing.store.trace_store import TraceStore

    options = PullOptions(
        since=moment(since, "--since"),
        until=parse_when(until, "--until"),
        tags=tuple(tag or ()),
        routed=routed,
        full=full,
        overlap=max(timedelta(), datetime.now(UTC) - moment(overlap, "--overlap")),
        redact=redact_patterns(*redact) if redact else None,
        pool=None if pool is None else ModelPool.from_yaml(pool, reload=False),
    )
    with (
        LangSmith(endpoint=endpoint, page_size=page_size) as langsmith,
        TraceStore(store) as opened,
        _bar(f"pulling {project}", show=not (quiet or as_json)) as on_progress,
    ):
        summary = pull_traces(
            project, opened, options, langsmith=langsmith, on_progress=on_progress
        )
    if as_json:
        print_json({**summary.to_dict(), "store": store})
        return
    _print_pull(summary, store)


@command(app, "push", example="traces push --project support-bot", interrupted=_INTERRUPTED)
def push(
    project: Project,
    store: Store = STORE,
    since: Annotated[
        str | None, typer.Option(help="Of traces not older than, e.g. 7d; all if none.")
    ] = None,
    endpoint: Endpoint = None,
    extend_retention: Annotated[
        bool,
        typer.Option(
            "--extend-retention", help="Let feedback upgrade traces to long, dearer retention."
        ),
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Send feedback of the local store that LangSmith does not have yet."""
    from xrouter_lg.langsmith.connection import LangSmith
    from xrouter_lg.langsmith.push import push_feedback
    from xrouter_lg.tracing.store.trace_store import TraceStore

    with (
        LangSmith(endpoint=endpoint) as langsmith,
        TraceStore(store, create=False) as opened,
        _bar(f"pushing to {project}", show=not (quiet or as_json)) as on_progress,
    ):
        summary = push_feedback(
            project,
            opened,
            langsmith=langsmith,
            since=parse_when(since, "--since"),
            extend_retention=extend_retention,
            on_progress=on_progress,
        )
    if as_json:
        print_json(summary.to_dict())
        return
    echo(
        f"{summary.sent} sent, {summary.there} there already, {summary.no_run} on runs that "
        f"LangSmith does not have ({summary.traces} traces with feedback)"
    )


@command(
    app,
    "push-experiment",
    example="traces push-experiment choices.parquet --outcomes outcomes "
    "--dataset held-out --experiment candidate",
    interrupted=_INTERRUPTED,
)
def push_experiment(
    choices: Annotated[Path, typer.Argument(help="Choices of a judged policy (Parquet).")],
    outcomes: Annotated[Path, typer.Option(help="The outcome table they are about.")],
    dataset: Annotated[str, typer.Option(help="LangSmith dataset; made if there is none.")],
    experiment: Annotated[str, typer.Option(help="Name of the experiment.")],
    cost_weight: Annotated[
        float | None, typer.Option(help="Which setting of the dial; the smallest if none.")
    ] = None,
    endpoint: Endpoint = None,
    as_json: AsJson = False,
) -> None:
    """Show a policy's choices as a LangSmith experiment. Running it again adds what is missing."""
    import polars

    from xrouter_lg.errors import ConfigurationError
    from xrouter_lg.files import reading
    from xrouter_lg.langsmith.connection import LangSmith
    from xrouter_lg.langsmith.experiment import push_experiment as send
    from xrouter_lg.langsmith.experiment import results_of_choices
    from xrouter_lg.outcomes import OutcomeTable

    with reading(ConfigurationError, OSError):
        frame = polars.read_parquet(choices)
        prompts = OutcomeTable.load(outcomes).prompts.collect()
    with LangSmith(endpoint=endpoint) as langsmith:
        summary = send(
            results_of_choices(frame, prompts, cost_weight=cost_weight),
            dataset=dataset,
            experiment=experiment,
            langsmith=langsmith,
            metadata={"choices": choices.name},
        )
    if as_json:
        print_json(summary.to_dict())
        return
    echo(str(summary))


@contextmanager
def _bar(label: str, *, show: bool) -> Iterator[OnProgress | None]:
    """A progress bar on standard error; none when not ``show``."""
    if not show:
        yield None
        return
    from rich.markup import escape
    from rich.progress import BarColumn, TaskProgressColumn, TimeElapsedColumn

    columns = (BarColumn(), TaskProgressColumn(), "{task.fields[counts]}", TimeElapsedColumn())
    with bars("{task.description}", *columns, transient=False, everywhere=True) as bar:
        task = bar.add_task(escape(label), total=1.0, counts="")

        def on_progress(now: Any) -> None:
            counts = f"{now.traces} traces, {now.runs} runs, {now.feedback} feedback"
            if now.note:
                counts += f"  {escape(now.note)}"
            bar.update(task, completed=now.share, counts=counts)

        yield on_progress


def _print_pull(summary: PullSummary, store: str) -> None:
    out = console()
    window = f"{summary.since:%Y-%m-%d %H:%M} to {summary.until:%Y-%m-%d %H:%M} UTC"
    waited = f", waited {summary.waited_s:.0f} s" if summary.waited_s else ""
    facts = {
        "project": f"{summary.project}, {window}",
        "traces": f"{summary.traces} read, {summary.open_traces} not finished yet",
        "runs": f"{summary.runs} read, {summary.new_runs} new; {summary.routes} routes",
        "feedback": f"{summary.feedback} read, {summary.new_feedback} new",
        "costs": _costs(summary),
        "requests": f"{summary.requests} through API {summary.api}{waited}",
        "store": store,
    }
    out.print(facts_table(facts))
    if summary.costs.disagreements:
        out.print(_disagreements(summary))
    for note in summary.notes:
        echo(f"note: {note}")


def _costs(summary: PullSummary) -> str:
    costs = summary.costs
    both = costs.agree + costs.disagree
    if not both:
        priced = f"{costs.only_ours} only by us, {costs.only_langsmith} only by LangSmith"
        return f"no call is priced by both sides ({priced}, {costs.neither} by neither)"
    return (
        f"{costs.agree} of {both} model calls agree with LangSmith within 1 %, {costs.disagree} "
        f"do not: {costs.ours_usd:.6f} USD by the price list, {costs.langsmith_usd:.6f} USD there"
    )


def _disagreements(summary: PullSummary) -> Any:
    from rich.text import Text

    table = plain_table()
    for name in ("run", "model", "in", "out", "USD", "USD there", "price"):
        table.add_column(name, no_wrap=True)
    found = sorted(
        summary.costs.disagreements, key=lambda one: -abs(one.ours_usd - one.langsmith_usd)
    )
    for one in found[:_SHOWN]:
        cells = (
            one.run_id,
            one.model,
            str(one.input_tokens),
            str(one.output_tokens),
            f"{one.ours_usd:.8f}",
            f"{one.langsmith_usd:.8f}",
            one.price_source,
        )
        table.add_row(*(Text(cell) for cell in cells))
    if summary.costs.disagree > _SHOWN:
        table.caption = f"{summary.costs.disagree - _SHOWN} more: --json lists them"
    return table
