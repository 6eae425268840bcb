"""What can go wrong with local models. The tree is drawn in :mod:`xrouter_lg.errors`.

A caller that only wants to say "no local models here" needs one ``except``.
"""

from __future__ import annotations

from xrouter_lg.errors import XRouterError


class LocalModelError(XRouterError, RuntimeError):
    """Root of everything this package raises on purpose."""


class UnknownWeightsError(LocalModelError, ValueError):
    """A weights name or source that the catalogue does not have."""


class WeightsUnavailableError(LocalModelError):
    """No source delivered the file: network down, package missing, disk full."""


class WeightsCorruptError(LocalModelError):
    """The bytes do not match the pinned sha256, also after fetching them again."""


class ServerStartError(LocalModelError):
    """The llama.cpp server did not become healthy; the message ends with its log."""


class MeasurementError(LocalModelError):
    """A server's answers carry no timings, or none that prices can be made of."""


class ExportError(LocalModelError):
    """An architecture, tokenizer or adapter that can't be written as GGUF."""
