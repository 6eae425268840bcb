"""What stops a backfill."""

from __future__ import annotations

from xrouter_lg.errors import XRouterError


class BackfillError(XRouterError, RuntimeError):
    """A backfill can't start or can't go on; the message names the value, the place and the fix.
    What was paid for is in the cache."""
