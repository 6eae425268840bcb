"""``xrouter traces``: what the recorder kept: look at it, move it, delete it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from xrouter_lg.cli import traces_pull
from xrouter_lg.cli.trace_tables import console, route_details, route_table, run_tree

if TYPE_CHECKING:
    from xrouter_lg.tracing.store.erase import By
    from xrouter_lg.tracing.store.query import RouteFilters
    from xrouter_lg.tracing.store.trace_store import TraceStore

app = typer.Typer(help="List, show, move and delete local traces.", no_args_is_help=True)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


class Format(StrEnum):
    """What an export is written as."""

    JSONL = "jsonl"
    PARQUET = "parquet"


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
User = Annotated[str | None, typer.Option(help="Of this user (user_id in the metadata).")]
Tenant = Annotated[str | None, typer.Option(help="Of this tenant.")]
Project = Annotated[str | None, typer.Option(help="Recorded under this project.")]
Tag = Annotated[str | None, typer.Option(help="With this tag on one of its runs.")]
Model = Annotated[str | None, typer.Option(help="With a call to this model.")]
Feedback = Annotated[str | None, typer.Option(help="With feedback of this key.")]
MinScore = Annotated[float | None, typer.Option(help="With feedback of at least this score.")]
MaxScore = Annotated[float | None, typer.Option(help="With feedback of at most this score.")]
Fallbacks = Annotated[bool, typer.Option("--fallbacks", help="With a failed attempt.")]
Errors = Annotated[bool, typer.Option("--errors", help="Unanswered, or with a failed run.")]
MinCost = Annotated[float | None, typer.Option(help="Cost at least this many USD.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")]


@app.command("list")
def list_traces(
    store: Store = "xrouter_traces.db",
    since: Since = None,
    until: Until = None,
    route: Route = None,
    policy: Policy = None,
    thread: Thread = None,
    user: User = None,
    tenant: Tenant = None,
    project: Project = None,
    tag: Tag = None,
    model: Model = None,
    feedback: Feedback = None,
    min_score: MinScore = None,
    max_score: MaxScore = None,
    fallbacks: Fallbacks = False,
    errors: Errors = False,
    min_cost: MinCost = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List routed requests, newest first."""
    filters = _filters(locals())
    with _opened(store) as opened:
        rows = opened.routes(**filters)
        if as_json:
            _print_json([row.to_dict() for row in rows])
            return
        if not rows:
            typer.echo(f"No routed requests match in {store}.")
            return
        console().print(route_table(rows))
        typer.echo(f"{len(rows)} shown, {opened.counts()['routes']} in {store}.")
        if hashed := opened.hashed([row.trace_id for row in rows]):
            typer.echo(
                f"{hashed} of them hold hashed prompts: they can be counted and billed, "
                "but train nothing."
            )


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
        out = console()
        for root in opened.run_tree(trace_id):
            out.print(run_tree(root))
        for row in routes:
            for part in route_details(row):
                out.print(part)
        for entry in feedback:
            said = "" if entry["comment"] is None else f"  {entry['comment']}"
            typer.echo(f"feedback  {entry['key']} = {entry['score']}{said}")
        if opened.hashed([trace_id]):
            typer.echo("Its prompts are stored as hashes: it trains nothing.")


@app.command()
def export(
    to: Annotated[
        Path, typer.Option("--to", help="The JSONL file, or with Parquet the folder, to write.")
    ],
    store: Store = "xrouter_traces.db",
    format: Annotated[
        Format | None, typer.Option(help="Left out: told by the name; a folder is Parquet.")
    ] = None,
    routes_only: Annotated[
        bool, typer.Option("--routes-only", help="Route records instead of whole runs.")
    ] = False,
    since: Since = None,
    until: Until = None,
    route: Route = None,
    policy: Policy = None,
    thread: Thread = None,
    user: User = None,
    tenant: Tenant = None,
    project: Project = None,
    tag: Tag = None,
    model: Model = None,
    feedback: Feedback = None,
    min_score: MinScore = None,
    max_score: MaxScore = None,
    fallbacks: Fallbacks = False,
    errors: Errors = False,
    min_cost: MinCost = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many requests.")] = None,
) -> None:
    """Export runs and feedback, or route records; the file appears complete or not at all."""
    filters = _filters(locals())
    folder = to.suffix in ("", ".parquet") and not routes_only
    chosen = format or (Format.PARQUET if folder else Format.JSONL)
    with _opened(store) as opened:
        counts = opened.export(to, format=chosen.value, routes_only=routes_only, **filters)
    wanted = ("routes",) if routes_only else ("runs", "feedback")
    written = " and ".join(
        f"{counts.get(name, 0)} {name}" for name in wanted if counts.get(name) or name != "feedback"
    )
    typer.echo(f"{written} written to {to}")


@app.command("import")
def import_traces(
    paths: Annotated[
        list[Path],
        typer.Argument(help="JSONL files, folders or files of Parquet; LangSmith's bulk exports."),
    ],
    store: Store = "xrouter_traces.db",
    project: Annotated[
        str | None, typer.Option(help="Put them under this project instead of their own.")
    ] = None,
) -> None:
    """Import exported traces. Repeating an import changes nothing, so an interrupted one is
    simply repeated."""
    with _opened(store, create=True) as opened, _counting("runs imported") as step:
        bulk = _bulk_export(paths)
        if bulk is None:
            counts = opened.import_files(paths, project=project, progress=step)
        else:
            counts = opened.import_batches(bulk, project=project, progress=step)
    if not counts:
        typer.echo("Nothing to import: the files hold no runs and no feedback.")
        return
    typer.echo(
        f"{counts.get('runs', 0)} runs ({counts.get('new_runs', 0)} new) with "
        f"{counts.get('routes', 0)} routes and {counts.get('feedback', 0)} feedback entries "
        f"({counts.get('new_feedback', 0)} new) imported into {store}"
    )


@app.command()
def delete(
    store: Store = "xrouter_traces.db",
    thread: Annotated[str | None, typer.Option(help="The traces of this conversation.")] = None,
    user: Annotated[str | None, typer.Option(help="The traces of this user.")] = None,
    tenant: Annotated[str | None, typer.Option(help="The traces of this tenant.")] = None,
    trace: Annotated[str | None, typer.Option(help="This trace; its beginning will do.")] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    keep_file: Annotated[
        bool,
        typer.Option(
            "--keep-file", help="Don't rewrite the file: quicker, but older copies may be left."
        ),
    ] = False,
) -> None:
    """Delete traces with their feedback for good, e.g. because a person asked for it."""
    given = {"thread": thread, "user": user, "tenant": tenant, "trace": trace}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        raise typer.BadParameter("give one of --thread, --user, --tenant and --trace")
    by, value = cast("tuple[By, str]", next(iter(chosen.items())))
    with _opened(store) as opened:
        if by == "trace":
            value = _one_trace(opened, value, store)
        found = opened.delete(by, value, dry_run=True)
        if not any(found.values()):
            typer.echo(f"Nothing of {by} {value!r} in {store}.")
            return
        what = f"{_counted(found)} of {by} {value!r}"
        if dry_run:
            typer.echo(f"{what} would be deleted from {store}.")
            return
        if not yes:
            typer.confirm(f"Delete {what} from {store}?", abort=True)
        opened.delete(by, value, compact=not keep_file)
    typer.echo(f"{what} deleted from {store}. What LangSmith holds of them is not touched.")


@app.command()
def prune(
    store: Store = "xrouter_traces.db",
    older_than: Annotated[str | None, typer.Option(help="An age such as 30d.")] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Then the oldest until at most this is used, e.g. 2GB.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
) -> None:
    """Delete the oldest traces, a hundred at a time, so that recording goes on meanwhile."""
    before = parse_when(older_than, "--older-than")
    most = parse_size(max_size, "--max-size")
    if before is None and most is None:
        raise typer.BadParameter("give --older-than, --max-size or both")
    with _opened(store) as opened:
        aged = 0 if before is None else opened.count_traces(until=before)
        held = opened.counts()["traces"]
        said = f"{aged} of {held} traces are older than {older_than}" if before else ""
        if most is not None:
            used = opened.used_bytes()
            said += (
                f"{'; ' if said else ''}{used / 1e6:.1f} MB are used, the limit is {most / 1e6:.1f}"
            )
        if dry_run:
            typer.echo(f"{said}. Nothing deleted.")
            return
        if not yes:
            typer.confirm(f"{said}. Delete the oldest?", abort=True)
        with _counting("traces deleted") as step:
            counts = opened.prune(before=before, max_bytes=most, progress=step)
    typer.echo(f"{_counted(counts)} deleted from {store}")


traces_pull.register(app)


def parse_size(text: str | None, option: str) -> int | None:
    """Bytes from a size such as ``500MB`` or ``2GB``."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", text.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise typer.BadParameter(f"{text!r} is no size. Use e.g. 500MB or 2GB.", param_hint=option)
    return int(float(match[1]) * _SIZES[match[2]])


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


def _filters(given: dict[str, Any]) -> RouteFilters:
    """Only what was asked for: an export without any filter includes runs that hold no route."""
    named: dict[str, Any] = {
        "since": parse_when(given["since"], "--since"),
        "until": parse_when(given["until"], "--until"),
        "thread_id": given["thread"],
        "fallbacks": given["fallbacks"] or None,
        "errors": given["errors"] or None,
        "min_cost_usd": given["min_cost"],
        "feedback_key": given["feedback"],
    }
    same = ("route", "policy", "user", "tenant", "project", "tag", "model")
    named.update({name: given[name] for name in (*same, "min_score", "max_score", "limit")})
    chosen: RouteFilters = {}
    chosen.update({name: value for name, value in named.items() if value is not None})  # type: ignore[typeddict-item]
    return chosen


@contextmanager
def _opened(store: str, *, create: bool = False) -> Iterator[TraceStore]:
    """The store; its errors end the command with one line and exit code 1."""
    from xrouter_lg.errors import MissingExtraError, StoreError
    from xrouter_lg.tracing.store.trace_store import TraceStore

    try:
        with TraceStore(store, create=create) as opened:
            yield opened
    except (StoreError, MissingExtraError) as error:
        typer.echo(f"xrouter: {error}", err=True)
        raise typer.Exit(1) from None


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int], None]]:
    """A line that counts up while something long goes on, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed} " + what), TimeElapsedColumn())
    shown = Console(stderr=True)
    with Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda count: bar.advance(task, count)


def _bulk_export(paths: list[Path]) -> Iterable[dict[str, Any]] | None:
    """The runs of LangSmith's own Parquet files; None where the paths are something else."""
    try:
        source = import_module("integrations.langsmith")
    except ImportError:  # installed without a checkout
        return None
    found = [source.is_bulk_export(path) for path in paths]
    if not any(found):
        return None
    if not all(found):
        raise typer.BadParameter("import LangSmith's bulk exports apart from other files")
    runs: Iterable[dict[str, Any]] = source.read_bulk_export(paths)
    return runs


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


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
