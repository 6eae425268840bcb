"""``xrouter init``: a first pool file, from the keys that are there or from an app's traces."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xrouter_lg.cli.options import AsJson, Project, parse_when
from xrouter_lg.cli.said import command, echo, print_json

if TYPE_CHECKING:
    from xrouter_lg.pool.pool import ModelPool

app = typer.Typer()


@command(app, "init", example="init --traces traces.db --dry-run")
def init(
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("pool.yaml"),
    traces: Annotated[
        str | None,
        typer.Option(help="Of the models that were called in this trace store (path or URL)."),
    ] = None,
    langsmith: Annotated[
        str | None,
        typer.Option(metavar="PROJECT", help="Of the models in this project of LangSmith."),
    ] = None,
    since: Annotated[str, typer.Option(help="How far back traces are read.")] = "30d",
    project: Project = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the file and write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write a commented pool file with models of each provider whose key is in the environment, or
    with the models that an app has called so far, out of its traces.

    Keys are looked for by the names of their variables and never shown or written. Prices are those
    of genai-prices, abilities those of LangChain's model profiles. Without any key the file has two
    local models and says what to set. A file that is there is never overwritten; nothing is called
    but LangSmith, and that only with --langsmith.

    Exit code 0: written, or shown; 2: the file is there already or can't be written, or no model
    was called in these traces.
    """
    import yaml

    from xrouter_lg.errors import ConfigurationError
    from xrouter_lg.pool.pool import ModelPool

    if not dry_run and output.exists():
        raise ConfigurationError(
            f"{str(output)!r} is there already and is left as it is; write another with --output, "
            "or look at what would be written with --dry-run"
        )
    if traces is not None and langsmith is not None:
        raise typer.BadParameter("--traces and --langsmith are two places to look in; name one")
    if traces is None and langsmith is None:
        text, found = _of_keys()
    else:
        text, found = _of_traces(traces, langsmith, since, project)
    pool = ModelPool.from_dict(yaml.safe_load(text))
    if not dry_run:
        try:
            with output.open("x", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise ConfigurationError(
                f"can't write {str(output)!r}: {error.strerror}; name another file with --output"
            ) from error
    if as_json:
        written = {"output": str(output), "written": not dry_run}
        print_json({**written, **found, "cards": pool.names, "default": pool.default, "text": text})
    elif dry_run:
        echo(text.removesuffix("\n"))
    else:
        _say(output, pool, found)


def _of_keys() -> tuple[str, dict[str, Any]]:
    """The file's text, and what it was made of."""
    from xrouter_lg.cli.newcomer.pool_text import pool_text
    from xrouter_lg.cli.newcomer.providers import PROVIDERS, suggested

    there = [provider for provider in PROVIDERS if provider.key_set]
    return pool_text([one for provider in there for one in suggested(provider)]), {
        "keys": [provider.variable for provider in there],
        "to_install": _to_install([p.package for p in there if not p.installed]),
    }


def _of_traces(
    traces: str | None, langsmith: str | None, since: str, project: str | None
) -> tuple[str, dict[str, Any]]:
    from dataclasses import asdict

    from xrouter_lg.cli.newcomer.pool_text import used_text
    from xrouter_lg.cli.newcomer.providers import PROVIDERS
    from xrouter_lg.cli.newcomer.used import MOST, pulled, used_models
    from xrouter_lg.tracing.runs.redact import without_userinfo
    from xrouter_lg.tracing.store.trace_store import TraceStore

    start = parse_when(since, "--since")
    assert start is not None
    if langsmith is not None:
        with pulled(langsmith, start) as store:
            used = used_models(store, start, None)
    else:
        assert traces is not None
        with TraceStore(traces, create=False) as store:
            used = used_models(store, start, project)
    shown = used[:MOST]
    where = f"LangSmith's project {langsmith}" if langsmith is not None else str(traces)
    makers = {one.provider for one in shown}
    there = [provider for provider in PROVIDERS if provider.name in makers]
    return used_text(shown, " ".join(without_userinfo(where).split()), len(used) - len(shown)), {
        "keys": [provider.variable for provider in there if provider.key_set],
        "to_install": _to_install([p.package for p in there if not p.installed]),
        "to_set": [provider.variable for provider in there if not provider.key_set],
        "used": [{**asdict(one), "usd": one.usd} for one in used],
    }


def _say(output: Path, pool: ModelPool, found: dict[str, Any]) -> None:
    keys = ", ".join(found["keys"]) or "no provider's key found"
    if "used" in found:
        keys = f"of {len(found['used'])} models in {sum(m['calls'] for m in found['used']):,} calls"
    echo(f"{output}: {len(pool)} cards ({keys}); default {pool.default}")
    if found.get("to_set"):
        echo(f"keys that are not set: {', '.join(found['to_set'])}")
    if found["to_install"]:
        echo(f"install what is missing: {found['to_install']}")
    echo(f"next: xrouter pool check {output}{' --live' if found['keys'] else ''}")


def _to_install(packages: list[str]) -> str | None:
    return f"pip install {' '.join(packages)}" if packages else None
