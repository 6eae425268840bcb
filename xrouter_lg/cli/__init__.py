"""The ``xrouter`` command. Sub-commands load when they are called, so ``--help`` is quick."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from xrouter_lg import __version__
from xrouter_lg.errors import MissingExtraError
from xrouter_lg.extras import missing

if TYPE_CHECKING:
    import typer

    app: typer.Typer

__all__ = ["app", "main"]

_SUB_APPS = {
    "init": "Write a first pool file, from the keys in the environment.",
    "doctor": "Look at what is installed, set and there, and name the next command.",
    "explain": "Where a prompt would go and why, or why a recorded request went where it did.",
    "pool": "Check and show a pool of models.",
    "verifiers": "Check the graders that score answers.",
    "backfill": "Ask the other cards about chosen prompts.",
    "traces": "List, show, move and delete local traces.",
    "outcomes": "Turn traces into outcomes, and look at them.",
    "learn": "Every night: learn from what came in, and promote what is shown to be better.",
    "train": "Learn a checkpoint from an outcome table, without torch.",
    "checkpoint": "Change a checkpoint without training it again.",
    "judge": "Score a checkpoint on an outcome table, and say whether it may serve.",
    "shadow": "Judge a policy by what it proposed beside the one that decided.",
    "canary": "Compare the two arms of a canary.",
    "drift": "Has traffic moved away from what a checkpoint was trained on?",
    "serve": "Serve a pool behind OpenAI's HTTP interface.",
    "keys": "Keys of a server: add, list, revoke.",
    "dashboard": "Spend, quality, decisions and versions on one page.",
    "savings": "What was spent against what one card for everything would have cost.",
    "promote": "Let an alias point to a checkpoint, if a verdict allows it.",
    "rollback": "Let an alias point to what it pointed to before.",
}
"""Each is, or is a command of, the Typer ``app`` of the module of that name in this package."""
_MODULES = {
    "init": "newcomer.init",
    "doctor": "newcomer.doctor",
    "explain": "newcomer.explain",
    "shadow": "traffic",
    "canary": "traffic",
    "drift": "traffic",
    "rollback": "promote",
    "dashboard": "server.dashboard",
    "savings": "traces.savings",
    "serve": "server.serve",
    "keys": "server.keys",
}
"""Of those that are not called so."""
_COMPLETION = ("install_completion", "show_completion")


def main() -> None:
    """Entry point of the ``xrouter`` script."""
    try:
        command = _build()
    except MissingExtraError as error:
        print(f"xrouter: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(2) from None
    command()


def _build() -> typer.Typer:
    """The Typer app.

    Raises:
        MissingExtraError: typer is not installed.
    """
    try:
        import typer
        from typer.core import TyperGroup
        from typer.main import get_command
    except ImportError as error:
        raise missing("typer", "the xrouter command") from error

    from xrouter_lg.cli.said import EXIT_CODES, usage_said

    codes = "; ".join(f"{code:d} {meaning}" for code, meaning in EXIT_CODES.items())

    class LazyGroup(TyperGroup):
        """Knows its sub-commands' names and help; imports one when it is called."""

        def __init__(self, **attrs: Any) -> None:
            super().__init__(**attrs)
            for name, summary in _SUB_APPS.items():
                self.commands[name] = TyperGroup(name=name, help=summary)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if args and args[0] in self.commands:
                name = args[0]
                module = import_module(f"{__name__}.{_MODULES.get(name, name)}")
                loaded = get_command(module.app)
                # Typer offers completion with every app; it is xrouter's alone.
                loaded.params = [one for one in loaded.params if one.name not in _COMPLETION]
                several = getattr(loaded, "commands", {})
                self.commands[name] = several.get(name, loaded)
            return super().resolve_command(ctx, args)

        def main(self, *args: Any, **extra: Any) -> Any:
            given = args[0] if args else extra.get("args")
            told = {**extra, "standalone_mode": False}
            if not extra.get("standalone_mode", True):
                return super().main(*args, **told)
            with usage_said(sys.argv[1:] if given is None else given):
                code = super().main(*args, **told)
            raise SystemExit(code or 0)

    def say_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"xrouter {__version__}")
            raise typer.Exit

    built = typer.Typer(cls=LazyGroup, no_args_is_help=True)

    @built.callback(epilog=f"Exit codes: {codes}.")
    def xrouter(
        version: bool = typer.Option(  # no Annotated: typer is known in here only
            False, "--version", help="Say the version.", callback=say_version, is_eager=True
        ),
    ) -> None:
        """Learned, cost-aware model routing for LangGraph."""

    return built


def __getattr__(name: str) -> Any:
    if name == "app":
        globals()["app"] = built = _build()
        return built
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
