"""``xrouter traces``: list, show and export what the recorder kept."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.tree import Tree

    from xrouter_lg.tracing.query import RouteFilters, RouteRow, RunNode
    from xrouter_lg.tracing.store import TraceStore

app = typer.Typer(help="List, show and export local traces.", no_args_is_help=True)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_ID_SHOWN = 18
"""Characters of an id in a table: its time to a fraction of a millisecond."""

Store = Annotated[
    str,
    typer.Option("--store", envvar="XROUTER_TRACES", help="Path or URL of the trace store."),
]
Since = Annotated[
    str | None, typer.Option(help="Not older than, e.g. 30m, 12h, 7d, 2w or 2026-11-01.")
]
Until = Annotated[str | None, typer.Option(help="Older than, in the same forms.")]
Route = Annotated[str | None, typer.Option(help="Answered by this card.")]
Policy = Annotated[str | None, typer.Option(help="Decided by this policy.")]
Thread = Annotated[str | None, typer.Option(help="Of this conversation.")]
Project = Annotated[str | None, typer.Option(help="Recorded under this project.")]
Fallbacks = Annotated[bool, typer.Option("--fallbacks", help="With a failed attempt.")]
Errors = Annotated[bool, typer.Option("--errors", help="Unanswered, or with a failed run.")]
MinCost = Annotated[float | None, typer.Option(help="Cost at least this many USD.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command("list")
def list_traces(
    store: Store = "xrouter_traces.db",
    since: Since = None,
    until: Until = None,
    route: Route = None,
    policy: Policy = None,
    thread: Thread = None,
    project: Project = None,
    fallbacks: Fallbacks = False,
    errors: Errors = False,
    min_cost: MinCost = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List routed requests, newest first."""
    filters = _filters(
        since, until, route, policy, thread, project, fallbacks, errors, min_cost, limit
    )
    with _opened(store) as opened:
        rows = opened.routes(**filters)
        if as_json:
            _print_json([row.to_dict() for row in rows])
            return
        if not rows:
            typer.echo(f"No routed requests match in {store}.")
            return
        _console().print(_route_table(rows))
        typer.echo(f"{len(rows)} shown, {opened.counts()['routes']} in {store}.")


@app.command()
def show(
    trace: Annotated[str, typer.Argument(help="Id of a trace or route; its beginning will do.")],
    store: Store = "xrouter_traces.db",
    as_json: AsJson = False,
) -> None:
    """Show one request: its runs, the decision, every charge, feedback."""
    with _opened(store) as opened:
        trace_id = _one_trace(opened, trace, store)
        routes = opened.routes(trace_id=trace_id)
        feedback = opened.feedback(trace_id)
        if as_json:
            runs = opened.runs(trace_id)
            shown = [row.to_dict() for row in routes]
            _print_json({"trace_id": trace_id, "runs": runs, "routes": shown, "feedback": feedback})
            return
        console = _console()
        for root in opened.run_tree(trace_id):
            console.print(_tree(root))
        for row in routes:
            for part in _route_details(row):
                console.print(part)
        for entry in feedback:
            said = "" if entry["comment"] is None else f"  {entry['comment']}"
            typer.echo(f"feedback  {entry['key']} = {entry['score']}{said}")


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", help="The JSONL file to write.")],
    store: Store = "xrouter_traces.db",
    routes_only: Annotated[
        bool, typer.Option("--routes-only", help="Route records instead of whole runs.")
    ] = False,
    since: Since = None,
    until: Until = None,
    route: Route = None,
    policy: Policy = None,
    thread: Thread = None,
    project: Project = None,
    fallbacks: Fallbacks = False,
    errors: Errors = False,
    min_cost: MinCost = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many requests.")] = None,
) -> None:
    """Export runs or route records as JSON lines; the file appears complete or not at all."""
    filters = _filters(
        since, until, route, policy, thread, project, fallbacks, errors, min_cost, limit
    )
    with _opened(store) as opened:
        count = opened.export(to, routes_only=routes_only, **filters)
    typer.echo(f"{count} {'routes' if routes_only else 'runs'} written to {to}")


def parse_when(text: str | None, option: str) -> datetime | None:
    """A moment from an age (``7d``) or an ISO date or time; UTC unless it says otherwise."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+)([smhdw])", text):
        try:
            return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            pass
    else:
        try:
            when = datetime.fromisoformat(text)
        except ValueError:
            pass
        else:
            return when if when.tzinfo else when.replace(tzinfo=UTC)
    raise typer.BadParameter(
        f"{text!r} is no time. Use an age such as 30m, 12h, 7d or 2w, or a date like 2026-11-01.",
        param_hint=option,
    )


def _filters(
    since: str | None,
    until: str | None,
    route: str | None,
    policy: str | None,
    thread: str | None,
    project: str | None,
    fallbacks: bool,
    errors: bool,
    min_cost: float | None,
    limit: int | None,
) -> RouteFilters:
    """Only what was asked for: an export without any filter includes runs that hold no route."""
    given: dict[str, Any] = {
        "since": parse_when(since, "--since"),
        "until": parse_when(until, "--until"),
        "route": route,
        "policy": policy,
        "thread_id": thread,
        "project": project,
        "fallbacks": fallbacks or None,
        "errors": errors or None,
        "min_cost_usd": min_cost,
        "limit": limit,
    }
    chosen: RouteFilters = {}
    chosen.update({name: value for name, value in given.items() if value is not None})  # type: ignore[typeddict-item]
    return chosen


@contextmanager
def _opened(store: str) -> Iterator[TraceStore]:
    """The store, for reading; its errors end the command with one line and exit code 1."""
    from xrouter_lg.errors import MissingExtraError, StoreError
    from xrouter_lg.tracing.store import TraceStore

    try:
        with TraceStore(store, create=False) as opened:
            yield opened
    except (StoreError, MissingExtraError) as error:
        typer.echo(f"xrouter: {error}", err=True)
        raise typer.Exit(1) from None


def _one_trace(store: TraceStore, prefix: str, where: str) -> str:
    found = store.find(prefix, limit=6)
    if len(found) == 1:
        return found[0]
    if not found:
        raise typer.BadParameter(
            f"no trace or route in {where} begins with {prefix!r}. "
            "`xrouter traces list` shows what there is.",
            param_hint="TRACE",
        )
    listed = ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
    raise typer.BadParameter(
        f"{prefix!r} begins more than one trace: {listed}. Give more characters.",
        param_hint="TRACE",
    )


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _console() -> Console:
    from rich.console import Console

    # Piped output has no width of its own; eighty columns would cut the ids.
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def _route_table(rows: list[RouteRow]) -> RenderableType:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("time (UTC)", no_wrap=True)
    table.add_column("trace", no_wrap=True)
    for name in ("route", "policy", "why"):
        table.add_column(name, overflow="fold")
    for name in ("tokens", "USD", "ms", "fallbacks"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("thread", overflow="fold")
    for row in rows:
        record = row.record
        cells = (
            f"{row.created_at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
            row.trace_id[:_ID_SHOWN],
            (record.route or "none") + (" (cut)" if record.truncated else ""),
            f"{record.policy} {record.policy_version}".strip(),
            record.reason,
            f"{row.input_tokens}+{row.output_tokens}",
            _usd(record.cost_usd),
            f"{record.latency_s * 1000:.0f}",
            str(len(record.fallbacks)),
            record.thread_id or "",
        )
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _usd(text: str | None) -> str:
    """Four significant digits; what is unknown is not zero."""
    if text is None:
        return "unknown"
    value = Decimal(text)
    return f"{value:.6f}" if value >= Decimal("0.001") or not value else f"{value:.3g}"


def _tree(root: RunNode) -> Tree:
    from rich.tree import Tree

    tree = Tree(_run_line(root.run))

    def grow(branch: Tree, node: RunNode) -> None:
        for child in node.children:
            grow(branch.add(_run_line(child.run)), child)

    grow(tree, root)
    return tree


def _run_line(run: dict[str, Any]) -> str:
    from rich.markup import escape

    took = "not finished"
    if run["end_time"]:
        start, end = (datetime.fromisoformat(run[name]) for name in ("start_time", "end_time"))
        took = f"{(end - start).total_seconds() * 1000:.1f} ms"
    tokens = f", {run['total_tokens']} tokens" if run["total_tokens"] else ""
    line = f"{escape(run['name'])}  [dim]{run['run_type']}, {took}{tokens}[/dim]"
    if run["error"]:
        line += f"  [red]{escape(run['error'].splitlines()[0][:120])}[/red]"
    return line


def _route_details(row: RouteRow) -> Iterator[RenderableType]:
    from rich.markup import escape
    from rich.table import Table

    record = row.record
    facts = Table(box=None, show_header=False, pad_edge=False)
    scores = sorted(record.scores.items(), key=lambda item: -item[1])
    for name, value in (
        ("route", record.route or "none"),
        ("why", record.reason),
        ("policy", f"{record.policy} {record.policy_version}".strip()),
        ("scores", "  ".join(f"{card} {score:.3f}" for card, score in scores)),
        ("propensity", "unknown" if record.propensity is None else f"{record.propensity:.4f}"),
        ("cost weight", f"{record.cost_weight:g}"),
        (
            "USD",
            f"{_usd(record.cost_usd)} (router {_usd(record.router_cost_usd)}, "
            f"workers {_usd(record.worker_cost_usd)})",
        ),
        ("latency", f"{record.latency_s * 1000:.0f} ms in {record.turns} turn(s)"),
        ("removed", "  ".join(f"{card}: {why}" for card, why in record.removed.items())),
        ("thread", record.thread_id or ""),
    ):
        if value:
            facts.add_row(f"[bold]{name}[/bold]", escape(value))
    yield facts
    charges = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("charge", "card", "model", "attempt", "in", "out", "USD", "price", "ms", "error"):
        charges.add_column(name, overflow="fold")
    for charge in record.charges:
        usage = charge.get("usage") or {}
        cells = (
            charge.get("kind"),
            charge.get("card"),
            charge.get("served_model") or charge.get("model"),
            charge.get("attempt"),
            usage.get("input_tokens", "?"),
            usage.get("output_tokens", "?"),
            _usd(charge.get("cost_usd")),
            charge.get("price_source") or "",
            f"{(charge.get('latency_s') or 0) * 1000:.0f}",
            charge.get("error") or "",
        )
        charges.add_row(*(escape(str(cell)) for cell in cells))
    yield charges
