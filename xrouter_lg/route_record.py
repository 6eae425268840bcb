"""The record of a request: what ``message.response_metadata["xrouter"]`` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xrouter_lg.errors import BriefRecordError
from xrouter_lg.types import known_fields, shallow

RECORD_SCHEMA_VERSION = 1
"""Version of the route record's layout; raised when a field changes its meaning."""


@dataclass(frozen=True, slots=True)
class RouteRecord:
    """The product of a request: which card answered, why, at what price. USD are decimal strings.

    ``cost_usd`` is router and workers together and None as soon as one part is unknown;
    ``known_cost_usd`` is then the sum of what is known.
    """

    route: str | None
    reason: str
    policy: str
    policy_version: str
    prompt_hash: str | None
    pool_fingerprint: str
    cost_weight: float
    scores: dict[str, float]
    propensity: float | None
    cost_usd: str | None
    router_cost_usd: str | None
    worker_cost_usd: str | None
    known_cost_usd: str
    charges: list[dict[str, Any]]
    fallbacks: list[dict[str, Any]]
    turns: int
    latency_s: float
    trace_id: str | None
    run_id: str | None
    candidates: list[str]
    removed: dict[str, str]
    served_model: str | None
    truncated: bool
    decisions: list[dict[str, Any]]
    started_at: float
    """Unix time in seconds."""
    thread_id: str | None = None
    tenant: str | None = None
    schema_version: int = RECORD_SCHEMA_VERSION
    arm: dict[str, Any] | None = None
    """Of a canary: ``arm`` (``main`` or ``candidate``), its ``propensity``, ``unit`` and ``salt``.
    ``propensity`` of the record is within the arm."""
    shadow_cost_usd: str | None = "0"
    """What shadow proposals cost, on top of ``cost_usd``; None while a part is unknown. The
    proposals are in ``decisions``, under ``shadow``."""
    error: str | None = None
    """The class of the error that the request ended in, ``cancelled`` where its caller left; None
    for an answer. ``route`` is then None."""
    estimated_cost_usd: str | None = None
    """``known_cost_usd`` with the estimates of attempts of unknown cost."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form: what ``message.response_metadata["xrouter"]`` holds."""
        return shallow(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RouteRecord:
        """The inverse of :meth:`to_dict`; fields of a newer version are ignored.

        Raises:
            BriefRecordError: it is the part that a stored message holds.
        """
        try:
            return cls(**known_fields(cls, data))
        except TypeError as error:
            raise BriefRecordError(
                f"this is no whole route record: it holds {', '.join(data) or 'nothing'}. A stored "
                "message keeps a part; TraceStore(...).record_of(message) gives the whole"
            ) from error
