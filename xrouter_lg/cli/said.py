"""How a command is registered and how it ends: its result, or one line that says what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import typer

from xrouter_lg.cli.options import spread
from xrouter_lg.json_text import printable


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    BAD = 1
    WRONG = 2
    REFUSED = 3
    INTERRUPTED = 130


EXIT_CODES = {
    ExitCode.OK: "done",
    ExitCode.BAD: "what was looked at is bad, or a part was given up or declined",
    ExitCode.WRONG: "an option, a file or a setting is wrong, or a package is missing",
    ExitCode.REFUSED: "not promoted, a gate that does not pass, or an alarm",
    ExitCode.INTERRUPTED: "interrupted; the same command goes on",
}
"""What each tells a script; `xrouter --help` ends with it."""


def command(
    app: typer.Typer, name: str | None = None, *, example: str, interrupted: str = "interrupted"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command: with an example in its help, its groups of options spread, and what goes
    wrong in it said in one line."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        guarded = said(interrupted)(spread(function))
        return app.command(name, epilog=f"Example: xrouter {example}")(guarded)

    return register


@contextmanager
def said(interrupted: str = "interrupted") -> Iterator[None]:
    """End a command that fails with one line on stderr and the exit code that belongs to it."""
    from xrouter_lg.errors import XRouterError
    from xrouter_lg.extras import missing

    try:
        yield
    except KeyboardInterrupt:
        raise _end(interrupted, ExitCode.INTERRUPTED) from None
    except (XRouterError, ValueError, OSError) as error:
        from xrouter_lg.checkpoints.aliases import NotPromotedError

        if isinstance(error, NotPromotedError):
            raise _end(f"not promoted: {error}", ExitCode.REFUSED) from None
        raise _end(error, ExitCode.WRONG) from None
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith("xrouter_lg"):
            raise  # a mistake of ours, not a missing extra
        raise _end(missing(error.name, "this command"), ExitCode.WRONG) from None


def print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    echo(text)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line in which prompts, names or errors of others may stand."""
    typer.echo(printable(text), err=err)


def _end(what: object, code: ExitCode) -> typer.Exit:
    line = " ".join(part.strip() for part in str(what).splitlines())
    echo(f"xrouter: {line}", err=True)
    return typer.Exit(code)
