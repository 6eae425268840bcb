"""``xrouter serve``: the router behind OpenAI's HTTP interface."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from xrouter_lg.cli.options import AsJson
from xrouter_lg.cli.said import command, echo, print_json

app = typer.Typer(help="Serve a pool behind OpenAI's HTTP interface.")

KEY_VARIABLE = "XROUTER_DASHBOARD_KEY"
_SHORTEST_KEY = 20


@command(app, "serve", example="serve --pool pool.yaml --policy cheapest --traces traces.db")
def serve(
    pool: Annotated[Path, typer.Option(envvar="XROUTER_POOL", help="The pool file (YAML).")],
    policy: Annotated[
        str | None,
        typer.Option(envvar="XROUTER_POLICY", help="Who decides: cheapest, fixed, a checkpoint."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Where to listen. Beyond this machine only with --keys.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8400,
    keys: Annotated[
        str | None,
        typer.Option(envvar="XROUTER_KEYS", help="Path or URL of the key store (xrouter keys)."),
    ] = None,
    traces: Annotated[
        str | None,
        typer.Option(envvar="XROUTER_TRACES", help="Path or URL of the trace store; none without."),
    ] = None,
    cost_weight: Annotated[
        float | None, typer.Option(help="Score units that a reference cost is worth.")
    ] = None,
    max_turns: Annotated[int | None, typer.Option(min=1, help="Decisions per request.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, help="Seconds for a whole request.")
    ] = None,
    max_body: Annotated[str, typer.Option(help="The largest body, e.g. 20MB.")] = "20MB",
    dashboard: Annotated[
        bool,
        typer.Option(
            "--dashboard",
            help="Show --traces on /dashboard, behind the key in XROUTER_DASHBOARD_KEY, or a new "
            "one that is printed.",
        ),
    ] = False,
    checkpoints: Annotated[
        Path, typer.Option(help="Folder of checkpoints and aliases, for the dashboard.")
    ] = Path("checkpoints"),
    drain: Annotated[
        float, typer.Option(min=0.001, help="Seconds for open requests after SIGTERM.")
    ] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Answer /v1/chat/completions and /v1/responses from the pool, until SIGTERM or Ctrl+C.

    Without --keys anybody on this machine may ask, and nobody else can. A key of --keys does not
    open the dashboard, which shows everybody's requests and moves what serves.
    """
    from xrouter_lg.chat.model import ChatXRouter
    from xrouter_lg.cli.options import parse_size
    from xrouter_lg.extras import need
    from xrouter_lg.serve.settings import ServerSettings, check_exposure
    from xrouter_lg.tracing.record.recorder import Recorder

    for module in ("fastapi", "uvicorn", "httptools", "prometheus_client"):
        need(module, "xrouter serve")
    from xrouter_lg.serve.access.keys import KeyStore
    from xrouter_lg.serve.app import create_app
    from xrouter_lg.serve.engine import routed
    from xrouter_lg.serve.run import server_for, settle_memory

    check_exposure(host, has_keys=keys is not None)
    size = parse_size(max_body, "--max-body")
    assert size is not None
    settings = ServerSettings(max_body_bytes=size, drain_s=drain)
    kept = None if keys is None else KeyStore(keys)
    router = routed(
        str(pool), keys=kept, policy=policy, cost_weight=cost_weight, max_turns=max_turns
    )
    recorder = None if traces is None else Recorder(traces)
    try:
        chat = ChatXRouter(router, traces=recorder, timeout=timeout)
        served = create_app(chat, keys=kept, settings=settings)
        shown = None
        if dashboard:
            shown = add_dashboard(served, traces, checkpoints, pool, host)
        url, names = f"http://{host}:{port}/v1", list(router.pool.names)
        if as_json:
            at = None if shown is None else f"http://{host}:{port}{shown}"
            print_json({"url": url, "cards": names, "keys": keys is not None, "dashboard": at})
        else:
            echo(f"xrouter serves {', '.join(names)} on {url}")
            if shown is not None:
                echo(f"dashboard on http://{host}:{port}{shown}")
        server = server_for(served, host, port, settings)
        settle_memory()
        server.run()
    finally:
        if recorder is not None:
            recorder.close()


def add_dashboard(served: Any, traces: str | None, checkpoints: Path, pool: Path, host: str) -> str:
    """Give a server its dashboard; the path to open. A key that was set is not shown again.

    Raises:
        ConfigurationError: no traces to show, or a key that can be guessed.
    """
    from xrouter_lg.errors import ConfigurationError
    from xrouter_lg.extras import need

    if traces is None:
        raise ConfigurationError("--dashboard shows recorded requests: give their store, --traces")
    for module in ("polars", "sklearn"):
        need(module, "the dashboard")
    from xrouter_lg.calls.chat_model import is_loopback
    from xrouter_lg.dashboard.routes import PATH, Dashboard
    from xrouter_lg.dashboard.source import DashboardSource

    key = os.environ.get(KEY_VARIABLE, "")
    if key and len(key) < _SHORTEST_KEY:
        raise ConfigurationError(
            f"{KEY_VARIABLE} has {len(key)} characters; give at least {_SHORTEST_KEY}, such as "
            "`openssl rand -hex 24` prints"
        )
    engine = served.state.engine
    source = DashboardSource(
        store=traces,
        checkpoints=checkpoints,
        pool=pool,
        states=lambda: {n: "open" if engine.breaker(n).open else "ok" for n in engine.pool.names},
    )
    new = key or secrets.token_urlsafe(24)
    served.router.routes.extend(Dashboard(source, new, local=is_loopback(host)).routes())
    return PATH if key else f"{PATH}#key={new}"
