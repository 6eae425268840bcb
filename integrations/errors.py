"""What can go wrong with models on this machine. The tree is drawn in :mod:`xrouter_lg.errors`.

A caller that only wants to say "no local models here" needs one ``except`` for
:class:`LocalModelError`.
"""

from __future__ import annotations

from xrouter_lg.errors import XRouterError


class LocalModelError(XRouterError, RuntimeError):
    """Root of everything that models on this machine raise on purpose."""


class UnknownWeightsError(LocalModelError, ValueError):
    """A weights name or source that the catalogue does not have."""


class WeightsUnavailableError(LocalModelError):
    """No source delivered the file: network down, package missing, disk full."""


class WeightsCorruptError(LocalModelError):
    """The bytes do not match the pinned sha256, also after fetching them again."""


class ServerStartError(LocalModelError):
    """A server did not become healthy; the message ends with its log."""


class VllmMissingError(LocalModelError):
    """No interpreter with vLLM is known."""


class AdapterError(LocalModelError):
    """A checkpoint can't be loaded into a running server."""


class MeasurementError(LocalModelError):
    """A server's answers carry no timings, or none that prices can be made of."""


class ExportError(LocalModelError):
    """An architecture, tokenizer or adapter that can't be written as GGUF."""
