"""What can go wrong with a vLLM server, and where it surfaces.

VllmError (RuntimeError)
├── VllmMissingError   no Python that has vLLM                                     (server)
├── VllmStartError     the server did not come up; carries the log's end           (server)
└── AdapterError       a checkpoint that this server can't load, or that it refused (adapters)
"""

from __future__ import annotations


class VllmError(RuntimeError):
    """Root of everything this package raises on purpose."""


class VllmMissingError(VllmError):
    """No interpreter with vLLM is known."""


class VllmStartError(VllmError):
    """The server did not become healthy; the message ends with its log."""


class AdapterError(VllmError):
    """A checkpoint can't be loaded into a running server."""
