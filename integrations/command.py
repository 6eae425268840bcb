"""How a command of this folder ends."""

from __future__ import annotations

import sys
from collections.abc import Callable

from xrouter_lg.errors import XRouterError


def status_of(work: Callable[[], object], *, stopped: str | None = None) -> int:
    """Do ``work``; the process's exit status: 0, 1 for an error of ours, which is said on stderr,
    130 after Ctrl-C (the shell's own), which is answered with ``stopped``."""
    try:
        work()
    except XRouterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if stopped is not None:
            print(stopped, file=sys.stderr)
        return 130
    return 0
