"""``xrouter dashboard``: spend, quality, decisions and versions on one page."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from xrouter_lg.cli.options import (
    STORE,
    AsJson,
    PricePool,
    Project,
    ScoreKey,
    Since,
    Store,
    parse_when,
)
from xrouter_lg.cli.said import command, echo, print_json

app = typer.Typer()


@command(app, "dashboard", example="dashboard --store traces.db --checkpoints checkpoints")
def dashboard(
    store: Store = STORE,
    since: Since = "7d",
    project: Project = None,
    feedback: ScoreKey = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Tells kinds apart, and drift; left out: what production points to."),
    ] = None,
    checkpoints: Annotated[Path, typer.Option(help="Folder of checkpoints and aliases.")] = Path(
        "checkpoints"
    ),
    pool: PricePool = None,
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8411,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    once: Annotated[
        bool, typer.Option("--once", help="Serve nothing: print the figures as JSON.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve the dashboard on this machine, until Ctrl+C.

    Shown are spend against one card for everything, quality from feedback, where each kind goes,
    what is worth exploring, fallbacks, drift, the latest decisions with their reasons, and policy
    versions, which can be promoted (where a verdict allows it) and rolled back. The address holds a
    key that is new each time; nothing is fetched from elsewhere, and no other machine can ask.

    Exit code 0: ended; 2: a file or a setting is wrong, or a package is missing.
    """
    from xrouter_lg.extras import need

    for module in ("fastapi", "uvicorn", "httptools", "polars", "sklearn"):
        need(module, "xrouter dashboard")
    from xrouter_lg.dashboard.routes import PATH, Dashboard
    from xrouter_lg.dashboard.snapshot import take_snapshot
    from xrouter_lg.dashboard.source import DashboardSource
    from xrouter_lg.serve.run import listening, server_for
    from xrouter_lg.serve.settings import ServerSettings
    from xrouter_lg.tracing.store.trace_store import TraceStore

    start = parse_when(since, "--since")
    assert start is not None
    source = DashboardSource(
        store=store,
        period=datetime.now(UTC) - start,
        project=project,
        feedback=feedback,
        checkpoint=checkpoint,
        checkpoints=checkpoints,
        pool=pool,
    )
    if once:
        print_json(take_snapshot(source))
        return
    with TraceStore(store, create=False):
        source.read_by()  # what is wrong is said before anything listens
    key = secrets.token_urlsafe(24)
    with listening("127.0.0.1", port) as (socket, taken):
        url = f"http://127.0.0.1:{taken}{PATH}#key={key}"
        if as_json:
            print_json({"url": url})
        else:
            echo(f"dashboard of {store} on {url}")
        if show:
            typer.launch(url)
        app_ = Dashboard(source, key).app()
        server_for(app_, "127.0.0.1", taken, ServerSettings(drain_s=2.0)).run([socket])
