"""What can go wrong with a vLLM server. The tree is drawn in :mod:`xrouter_lg.errors`."""

from __future__ import annotations

from xrouter_lg.errors import XRouterError


class VllmError(XRouterError, RuntimeError):
    """Root of everything this package raises on purpose."""


class VllmMissingError(VllmError):
    """No interpreter with vLLM is known."""


class VllmStartError(VllmError):
    """The server did not become healthy; the message ends with its log."""


class AdapterError(VllmError):
    """A checkpoint can't be loaded into a running server."""
