"""What a command of the judge says of a wrong file or setting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer


@contextmanager
def said(*, interrupted: str = "interrupted") -> Iterator[None]:
    """Errors in one line, without a traceback, with exit code 2, or 130 after Ctrl-C."""
    from xrouter_lg.errors import XRouterError
    from xrouter_lg.extras import missing

    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"xrouter: {interrupted}", err=True)
        raise typer.Exit(130) from None
    except (XRouterError, ValueError, OSError) as error:
        typer.echo(f"xrouter: {error}", err=True)
        raise typer.Exit(2) from None
    except ImportError as error:
        typer.echo(f"xrouter: {missing(error.name or '', 'this command')}", err=True)
        raise typer.Exit(2) from None
