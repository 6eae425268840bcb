"""What can go wrong with local models, and where it surfaces.

Every error names the value, the place and the fix. All of them derive from
:class:`LocalModelError`, so a caller that only wants to say "no local models here" needs one
``except``; each also inherits the standard class it replaces.

    LocalModelError (RuntimeError)
    ├── UnknownWeightsError   a name that is not in the catalogue                (fetch, pool)
    ├── WeightsUnavailableError   no source delivers the file                    (fetch)
    ├── WeightsCorruptError   the bytes differ from the pinned sha256, twice     (fetch)
    ├── ServerStartError      llama.cpp did not come up; carries the log's end   (server)
    ├── ExportError           a checkpoint that can't be written as GGUF         (export_gguf)
    └── MeasurementError      a running server gave no usable timings            (measure)
"""

from __future__ import annotations


class LocalModelError(RuntimeError):
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
