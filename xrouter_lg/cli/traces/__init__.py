"""``xrouter traces``: what the recorder kept: look at it, move it, delete it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from xrouter_lg.cli.options import (
    STORE,
    AsJson,
    DryRun,
    Requests,
    Store,
    Yes,
    parse_size,
    parse_when,
)
from xrouter_lg.cli.said import ExitCode, command, echo, print_json
from xrouter_lg.cli.tables import console, counting, route_details, route_table, run_tree
from xrouter_lg.cli.traces import pull as traces_pull

if TYPE_CHECKING:
    from xrouter_lg.tracing.store.erase import By
    from xrouter_lg.tracing.store.trace_store import TraceStore

app = typer.Typer(help="List, show, move and delete local traces.", no_args_is_help=True)


class Format(StrEnum):
    """What an export is written as."""

    JSONL = "jsonl"
    PARQUET = "parquet"


@command(app, "list", example="traces list --since 7d --feedback liked")
def list_traces(
    requests: Requests,
    store: Store = STORE,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List routed requests, newest first."""
    with _open(store) as opened:
        rows = opened.routes(**requests.filters(limit))
        if as_json:
            print_json([row.to_dict() for row in rows])
            return
        if not rows:
            echo(f"No routed requests match in {store}.")
            return
        console().print(route_table(rows))
        echo(f"{len(rows)} shown, {opened.counts()['routes']} in {store}.")
        if hashed := opened.hashed([row.trace_id for row in rows]):
            echo(
                f"{hashed} of them hold hashed prompts: they can be counted and billed, "
                "but train nothing."
            )


@command(app, "show", example="traces show 01a20d09")
def show(
    trace: Annotated[str, typer.Argument(help="Id of a trace or route; its beginning will do.")],
    store: Store = STORE,
    as_json: AsJson = False,
) -> None:
    """Show one request: its runs, the decision, every charge, feedback."""
    with _open(store) as opened:
        trace_id = one_trace(opened, trace, store)
        routes = opened.routes(trace_id=trace_id)
        feedback = opened.feedback(trace_id)
        if as_json:
            runs = opened.runs(trace_id)
            shown = [row.to_dict() for row in routes]
            print_json({"trace_id": trace_id, "runs": runs, "routes": shown, "feedback": feedback})
            return
        out = console()
        for root in opened.run_tree(trace_id):
            out.print(run_tree(root))
        for row in routes:
            for part in route_details(row):
                out.print(part)
        for entry in feedback:
            said = "" if entry["comment"] is None else f"  {entry['comment']}"
            echo(f"feedback  {entry['key']} = {entry['score']}{said}")
        if opened.hashed([trace_id]):
            echo("Its prompts are stored as hashes: it trains nothing.")


@command(app, "export", example="traces export --to traces.jsonl")
def export(
    requests: Requests,
    to: Annotated[
        Path, typer.Option("--to", help="The JSONL file, or with Parquet the folder, to write.")
    ],
    store: Store = STORE,
    format: Annotated[
        Format | None, typer.Option(help="Left out: told by the name; a folder is Parquet.")
    ] = None,
    routes_only: Annotated[
        bool, typer.Option("--routes-only", help="Route records instead of whole runs.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many requests.")] = None,
    as_json: AsJson = False,
) -> None:
    """Export runs and feedback, or route records; the file appears complete or not at all."""
    folder = to.suffix in ("", ".parquet") and not routes_only
    chosen = format or (Format.PARQUET if folder else Format.JSONL)
    with _open(store) as opened:
        counts = opened.export(
            to, format=chosen.value, routes_only=routes_only, **requests.filters(limit)
        )
    if as_json:
        print_json({**counts, "to": to})
        return
    wanted = ("routes",) if routes_only else ("runs", "feedback")
    written = " and ".join(
        f"{counts.get(name, 0)} {name}" for name in wanted if counts.get(name) or name != "feedback"
    )
    echo(f"{written} written to {to}")


@command(app, "import", example="traces import traces.jsonl --store new.db")
def import_traces(
    paths: Annotated[
        list[Path],
        typer.Argument(
            help="JSONL files, folders or files of Parquet; LangSmith's bulk exports; or NAME:TEXT "
            "of an installed package's trace source."
        ),
    ],
    store: Store = STORE,
    project: Annotated[
        str | None, typer.Option(help="Put them under this project instead of their own.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Import exported traces.

    Repeating an import changes nothing, so an interrupted one is simply repeated.
    """
    with _open(store, create=True) as opened, counting("runs imported") as step:
        bulk = _from_sources(paths) or _bulk_export(paths)
        if bulk is None:
            counts = opened.import_files(paths, project=project, progress=step)
        else:
            counts = opened.import_batches(bulk, project=project, progress=step)
    if as_json:
        print_json({**counts, "store": store})
        return
    if not counts:
        echo("Nothing to import: the files hold no runs and no feedback.")
        return
    echo(
        f"{counts.get('runs', 0)} runs ({counts.get('new_runs', 0)} new) with "
        f"{counts.get('routes', 0)} routes and {counts.get('feedback', 0)} feedback entries "
        f"({counts.get('new_feedback', 0)} new) imported into {store}"
    )


@command(app, "delete", example="traces delete --user u-7 --dry-run")
def delete(
    store: Store = STORE,
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
    as_json: AsJson = False,
) -> None:
    """Delete traces with their feedback for good, e.g. because a person asked for it."""
    given = {"thread": thread, "user": user, "tenant": tenant, "trace": trace}
    chosen = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        raise typer.BadParameter("give one of --thread, --user, --tenant and --trace")
    by, value = cast("tuple[By, str]", next(iter(chosen.items())))
    with _open(store) as opened:
        if by == "trace":
            value = one_trace(opened, value, store)
        found = opened.delete(by, value, dry_run=True)
        what = f"{_counted(found)} of {by} {value!r}"
        if not any(found.values()):
            said = f"Nothing of {by} {value!r} in {store}."
        elif dry_run:
            said = f"{what} would be deleted from {store}."
        else:
            if not yes:
                _asked(f"Delete {what} from {store}?", as_json)
            opened.delete(by, value, compact=not keep_file)
            said = f"{what} deleted from {store}. What LangSmith holds of them is not touched."
    if as_json:
        print_json({**found, by: value, "store": store, "dry_run": dry_run})
    else:
        echo(said)


@command(app, "prune", example="traces prune --older-than 30d --max-size 2GB")
def prune(
    store: Store = STORE,
    older_than: Annotated[str | None, typer.Option(help="An age such as 30d.")] = None,
    max_size: Annotated[
        str | None, typer.Option(help="Then the oldest until at most this is used, e.g. 2GB.")
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete the oldest traces, a hundred at a time, so that recording goes on meanwhile."""
    before = parse_when(older_than, "--older-than")
    most = parse_size(max_size, "--max-size")
    if before is None and most is None:
        raise typer.BadParameter("give --older-than, --max-size or both")
    with _open(store) as opened:
        aged = 0 if before is None else opened.count_traces(until=before)
        held = opened.counts()["traces"]
        said = f"{aged} of {held} traces are older than {older_than}" if before else ""
        if most is not None:
            used = opened.used_bytes()
            said += (
                f"{'; ' if said else ''}{used / 1e6:.1f} MB are used, the limit is {most / 1e6:.1f}"
            )
        counts = {}
        if not dry_run:
            if not yes:
                _asked(f"{said}. Delete the oldest?", as_json)
            with counting("traces deleted") as step:
                counts = opened.prune(before=before, max_bytes=most, progress=step)
    if as_json:
        print_json({**counts, "older": aged, "held": held, "store": store, "dry_run": dry_run})
    elif dry_run:
        echo(f"{said}. Nothing deleted.")
    else:
        echo(f"{_counted(counts)} deleted from {store}")


app.add_typer(traces_pull.app)


def _open(store: str, *, create: bool = False) -> TraceStore:
    from xrouter_lg.tracing.store.trace_store import TraceStore

    return TraceStore(store, create=create)


def _bulk_export(paths: list[Path]) -> Iterable[dict[str, Any]] | None:
    """The runs of LangSmith's own Parquet files; None where the paths are something else."""
    from xrouter_lg.langsmith.bulk_export import is_bulk_export, read_bulk_export

    found = [is_bulk_export(path) for path in paths]
    if not any(found):
        return None
    if not all(found):
        raise typer.BadParameter("import LangSmith's bulk exports apart from other files")
    return read_bulk_export(paths)


def _from_sources(paths: list[Path]) -> Iterable[Any] | None:
    """The runs of sources that other packages bring; None where the paths are files."""
    from xrouter_lg.calls.failures import describe
    from xrouter_lg.errors import StoreError
    from xrouter_lg.plugins import TRACE_SOURCES, plugin

    named = [(str(path).partition(":"), path.exists()) for path in paths]
    found = [
        (None if there or not colon else plugin(TRACE_SOURCES, name), rest)
        for (name, colon, rest), there in named
    ]
    if not any(source for source, _ in found):
        return None
    if not all(source for source, _ in found):
        raise typer.BadParameter("import sources of other packages apart from files")

    def runs() -> Iterator[Any]:
        for source, rest in found:
            assert source is not None
            try:
                yield from source.load()(rest)
            except Exception as error:  # what is in that package is its own affair
                raise StoreError(
                    f"the trace source {source.name!r} of {source.value} failed: {describe(error)}"
                ) from error

    return runs()


def _asked(question: str, as_json: bool) -> None:
    """End with 1 unless the answer is yes: to decline is no interruption."""
    if not typer.confirm(question, err=as_json):
        raise typer.Exit(ExitCode.BAD)


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def one_trace(store: TraceStore, prefix: str, where: str) -> str:
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
