"""How a command is registered and how it ends: its result, or one line that says what is wrong."""

from __future__ import annotations

import functools
import inspect
import json
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Annotated, Any

import typer

from xrouter_lg.cli.options import spread
from xrouter_lg.json_text import printable
from xrouter_lg.tracing.runs.redact import without_userinfo


class ExitCode(IntEnum):
    """Exit codes of every command."""

    OK = 0
    BAD = 1
    WRONG = 2
    REFUSED = 3
    UNFORESEEN = 70
    INTERRUPTED = 130


EXIT_CODES = {
    ExitCode.OK: "done",
    ExitCode.BAD: "what was looked at is bad, or a part was given up or declined",
    ExitCode.WRONG: "an option, a file or a setting is wrong, or a package is missing",
    ExitCode.REFUSED: "not promoted, a gate that does not pass, or an alarm",
    ExitCode.UNFORESEEN: "an error that nobody foresaw; --debug shows where",
    ExitCode.INTERRUPTED: "interrupted; the same command goes on",
}
"""What each tells a script; `xrouter --help` ends with it."""


Debug = Annotated[
    bool,
    typer.Option("--debug", envvar="XROUTER_DEBUG", help="Show where an error comes from."),
]
_UsageError: Any = typer.BadParameter.__base__
"""Typer exports only what is derived from it."""


def command(
    app: typer.Typer, name: str | None = None, *, example: str, interrupted: str = "interrupted"
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command: with an example in its help, its groups of options spread, and what goes
    wrong in it said in one line."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        guarded = _guarded(spread(function), interrupted)
        return app.command(name, epilog=f"Example: xrouter {example}")(guarded)

    return register


def _guarded(function: Callable[..., None], interrupted: str) -> Callable[..., None]:
    """With ``--debug``, and what goes wrong said in one line."""

    @functools.wraps(function)
    def guarded(*, debug: bool = False, **given: Any) -> None:
        with said(interrupted, debug=debug):
            function(**given)

    asked = inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug
    )
    shown = [*inspect.signature(function).parameters.values(), asked]
    guarded.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    guarded.__annotations__ = {one.name: one.annotation for one in shown}
    return guarded


@contextmanager
def usage_said(arguments: Sequence[str]) -> Iterator[None]:
    """End a command line that can't be read with one line on stderr: the value, the option, and
    the name of its help."""
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            raise SystemExit(error.exit_code) from None
        help_of = "xrouter" if error.ctx is None else error.ctx.command_path
        line = error.format_message().rstrip(".")
        value = _given(getattr(error, "param", None), arguments)
        if value is not None and value not in line:
            line = f"{line} (it is {value!r})"
        _say(f"{line}{'' if line.endswith('?') else '.'} See `{help_of} --help`")
        raise SystemExit(ExitCode.WRONG) from None
    except typer.Abort:
        _say("interrupted")
        raise SystemExit(ExitCode.INTERRUPTED) from None


def _given(option: Any, arguments: Sequence[str]) -> str | None:
    """The value of an option on the command line."""
    for name in getattr(option, "opts", ()):
        for place, argument in enumerate(arguments):
            if argument == name and place + 1 < len(arguments):
                return arguments[place + 1]
            if argument.startswith(f"{name}="):
                return argument.removeprefix(f"{name}=")
    return None


@contextmanager
def said(interrupted: str = "interrupted", *, debug: bool = False) -> Iterator[None]:
    """End a command that fails with one line on stderr and the exit code that belongs to it;
    ``debug`` shows the traceback before it."""
    try:
        yield
    except KeyboardInterrupt:
        raise _end(interrupted, ExitCode.INTERRUPTED) from None
    except (typer.Exit, typer.Abort, _UsageError, BrokenPipeError):
        raise
    except Exception as error:
        if debug:
            echo("".join(traceback.format_exception(error)).rstrip(), err=True)
        raise _ending(error) from None


def _ending(error: Exception) -> typer.Exit:
    """One line on stderr, and the exit code that belongs to an error."""
    from xrouter_lg.checkpoints.aliases import NotPromotedError
    from xrouter_lg.errors import XRouterError
    from xrouter_lg.extras import missing

    if isinstance(error, NotPromotedError):
        return _end(f"not promoted: {error}", ExitCode.REFUSED)
    if isinstance(error, XRouterError | ValueError | OSError):
        return _end(error, ExitCode.WRONG)
    own = isinstance(error, ModuleNotFoundError) and (error.name or "xrouter_lg").startswith(
        "xrouter_lg"
    )
    if isinstance(error, ModuleNotFoundError) and not own:
        return _end(missing(str(error.name), "this command"), ExitCode.WRONG)
    kind = type(error).__name__
    return _end(
        f"{kind}: {error}: an error of xrouter itself. Run it again with --debug to see where, and "
        "report that",
        ExitCode.UNFORESEEN,
    )


def print_json(value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    echo(text)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line in which prompts, names or errors of others may stand, or a store's URL."""
    typer.echo(printable(without_userinfo(text)), err=err)


def _end(what: object, code: ExitCode) -> typer.Exit:
    _say(what)
    return typer.Exit(code)


def _say(what: object) -> None:
    line = " ".join(part.strip() for part in str(what).splitlines())
    echo(f"xrouter: {line}", err=True)
