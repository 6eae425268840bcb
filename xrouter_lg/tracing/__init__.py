"""Local traces: record runs, keep them, read route records out of them. Nothing loads at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xrouter_lg.tracing.record.langsmith import langsmith_client as langsmith_client
    from xrouter_lg.tracing.record.recorder import Recorder as Recorder
    from xrouter_lg.tracing.runs.extract import annotate as annotate
    from xrouter_lg.tracing.runs.extract import route_records as route_records
    from xrouter_lg.tracing.runs.extract import run_ids as run_ids
    from xrouter_lg.tracing.runs.redact import EMAIL as EMAIL
    from xrouter_lg.tracing.runs.redact import IBAN as IBAN
    from xrouter_lg.tracing.runs.redact import PAYMENT_CARD as PAYMENT_CARD
    from xrouter_lg.tracing.runs.redact import PHONE as PHONE
    from xrouter_lg.tracing.runs.redact import redact_patterns as redact_patterns
    from xrouter_lg.tracing.store.trace_store import TraceStore as TraceStore

_HOMES = {
    "EMAIL": "runs.redact",
    "IBAN": "runs.redact",
    "PAYMENT_CARD": "runs.redact",
    "PHONE": "runs.redact",
    "Recorder": "record.recorder",
    "TraceStore": "store.trace_store",
    "annotate": "runs.extract",
    "langsmith_client": "record.langsmith",
    "redact_patterns": "runs.redact",
    "route_records": "runs.extract",
    "run_ids": "runs.extract",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
