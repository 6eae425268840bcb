"""One recorded request as training sees it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from xrouter_lg.types import TokenUsage, known_fields

EPISODE_SCHEMA_VERSION = 1


def sum_usage(usages: Iterable[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """Tokens by kind (:meth:`TokenUsage.to_dict`) of those that are known; None where none is."""
    total: dict[str, Any] | None = None
    for usage in usages:
        if usage is None:
            continue
        total = TokenUsage(0, 0).to_dict() if total is None else total
        for name, tokens in usage.items():
            if isinstance(tokens, Mapping):  # what is billed apart, by its own names
                total[name] = dict(Counter(total.get(name, {})) + Counter(tokens))
            else:
                total[name] = total.get(name, 0) + int(tokens or 0)
    return total


@dataclass(frozen=True, kw_only=True)
class EpisodeCall:
    """One model call of an episode, answered or failed."""

    card: str
    model: str
    answer: str | None
    """Its text, or its tool calls as JSON; None where it failed."""
    usage: dict[str, Any] | None
    """Tokens of all attempts, by kind; None where unknown."""
    cost_usd: str | None
    """Decimal USD of all attempts; None where unknown."""
    latency_s: float
    error: str | None = None
    served_model: str | None = None
    truncated: bool = False
    call_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One request as training sees it."""

    trace_id: str
    run_id: str
    """The router's run; of an unrouted request, its first chat-model run."""
    messages: tuple[dict[str, Any], ...]
    """``role`` and ``content``, and ``tool_calls``, ``tool_call_id`` or ``name`` where given."""
    answer: str | None
    route: str | None
    """The card that answered, or ``router``."""
    calls: tuple[EpisodeCall, ...]
    routed: bool
    """False for a request that our node was no part of."""
    tools: tuple[dict[str, Any], ...] = ()
    """The app's own tools, as the model was given them."""
    tool_options: dict[str, Any] = field(default_factory=dict)
    candidates: tuple[str, ...] = ()
    decisions: tuple[dict[str, Any], ...] = ()
    """Per turn, as in the route record: calls, selection, propensity, and of a language model's
    decision ``token_ids`` with prompt ids, completion ids and logprobs."""
    scores: dict[str, float] = field(default_factory=dict)
    """The policy's probability of each candidate in the deciding turn."""
    propensity: float | None = None
    """Of all turns together; None where one is unknown."""
    explored: bool = False
    reason: str | None = None
    policy: str | None = None
    policy_version: str | None = None
    prompt_hash: str | None = None
    pool_fingerprint: str | None = None
    cost_weight: float | None = None
    cost_usd: str | None = None
    """Decimal USD of everything; None where a part is unknown."""
    router_cost_usd: str | None = None
    arm: dict[str, Any] | None = None
    """Of a canary: ``arm``, its ``propensity``, ``unit`` and ``salt``."""
    shadow_cost_usd: str | None = "0"
    """Decimal USD that shadow proposals cost, on top of ``cost_usd``; None where unknown."""
    latency_s: float | None = None
    feedback: tuple[dict[str, Any], ...] = ()
    """``key``, ``score``, ``value``, ``correction``, ``comment``, ``source``, oldest first;
    ``about`` is
    ``answer``, ``trace`` (it speaks of several requests together, and not of this answer) or
    ``call`` with a ``call_id``."""
    sampling_rate: float | None = None
    """Share of traces that was kept; None where all were, or nobody said."""
    tags: tuple[str, ...] = ()
    task: str | None = None
    """``task`` of the metadata, or NAME of a tag ``task:NAME``."""
    project: str | None = None
    thread_id: str | None = None
    tenant: str | None = None
    started_at: float = 0.0
    """Unix time in seconds."""

    @property
    def shadow(self) -> dict[str, Any] | None:
        """What a shadow policy proposed on the first turn (later turns follow from the served
        policy's calls); None without one."""
        found: dict[str, Any] | None = self.decisions[0].get("shadow") if self.decisions else None
        return found

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form."""
        return {"schema_version": EPISODE_SCHEMA_VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Episode:
        """The inverse of :meth:`to_dict`; fields of a newer version are ignored."""
        values = known_fields(cls, data)
        for name in ("messages", "tools", "candidates", "decisions", "feedback", "tags"):
            values[name] = tuple(values.get(name) or ())
        values["calls"] = tuple(EpisodeCall(**known_fields(EpisodeCall, c)) for c in data["calls"])
        return cls(**values)
