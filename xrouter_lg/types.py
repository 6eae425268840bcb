"""Frozen values that pass between the rooms. Nothing here does I/O or knows LangGraph."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Any, Literal

from langchain_core.messages import AIMessage, BaseMessage

ROUTER_ROUTE = "router"
"""The ``route`` of a request that the router answered itself; no card may have this name."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one attempt. ``input_tokens`` includes cached and cache-written ones,
    ``output_tokens`` includes reasoning ones, as LangChain's ``usage_metadata`` has it."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    kinds: Mapping[str, int] = field(default_factory=dict, hash=False)
    """What else is billed apart, by genai-prices' names: ``cache_write_1h_tokens``,
    ``input_audio_tokens``, ``output_image_tokens``, ``web_searches`` ... The tokens are parts of
    the totals above."""
    unknown: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Tokens of kinds that nobody knows, as ``input_NAME`` or ``output_NAME``: parts of the totals,
    charged at the dearest known rate of their side."""

    def with_kinds(self, kinds: Mapping[str, int]) -> TokenUsage:
        return dataclasses.replace(self, kinds={**self.kinds, **kinds})

    def with_a_search(self) -> TokenUsage:
        """The same with a web search, where it counts none."""
        return self if self.kinds.get("web_searches") else self.with_kinds({"web_searches": 1})

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form; ``kinds`` and ``unknown`` only where there are any."""
        data = shallow(self)
        more = {name: dict(data.pop(name)) for name in ("kinds", "unknown")}
        return data | {name: counts for name, counts in more.items() if counts}


@dataclass(frozen=True, slots=True)
class Charge:
    """One attempt that may have been paid for.

    ``cost_usd`` is None when the cost is unknown, never zero for want of knowledge.
    ``held_usd`` is the attempt's worst case: what a budget counts while the cost is unknown.
    """

    kind: Literal["router", "worker", "verifier", "judge", "backfill", "shadow"]
    card: str
    model: str
    attempt: int
    usage: TokenUsage | None
    cost_usd: Decimal | None
    price_source: str | None
    """``provider``, ``card``, ``genai-prices DATE``, ``rejected`` (refused before any token)."""
    latency_s: float
    served_model: str | None = None
    error: str | None = None
    held_usd: Decimal | None = None
    call_id: str | None = None
    overrun_usd: Decimal | None = None
    """What it has cost above its worst case, under a budget; None where it kept to it."""
    estimate_usd: Decimal | None = None
    """What an attempt of unknown cost has probably cost, by what the card's answers have cost so
    far, the size of the request and how much of an answer had come; 0 where there was most
    probably none: an error of the server's own, a connection that broke before. Budgets count
    ``held_usd``."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form; USD as decimal strings."""
        return {
            **shallow(self),
            "usage": None if self.usage is None else self.usage.to_dict(),
            "cost_usd": usd_str(self.cost_usd),
            "latency_s": round(self.latency_s, 6),
            "held_usd": usd_str(self.held_usd),
            "overrun_usd": usd_str(self.overrun_usd),
            "estimate_usd": usd_str(self.estimate_usd),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Charge:
        usage = data.get("usage")
        return cls(
            kind=data["kind"],
            card=data["card"],
            model=data["model"],
            attempt=data["attempt"],
            usage=None if usage is None else TokenUsage(**usage),
            cost_usd=usd(data.get("cost_usd")),
            price_source=data.get("price_source"),
            latency_s=data["latency_s"],
            served_model=data.get("served_model"),
            error=data.get("error"),
            held_usd=usd(data.get("held_usd")),
            call_id=data.get("call_id"),
            overrun_usd=usd(data.get("overrun_usd")),
            estimate_usd=usd(data.get("estimate_usd")),
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """What one call of this request gave, as a policy sees it on a later turn."""

    call_id: str
    card: str
    message: AIMessage
    truncated: bool = False


@dataclass(slots=True)
class Attempt:
    """What an attempt at a decision leaves behind, also where it fails or times out."""

    charges: list[Charge] = field(default_factory=list)
    """What a policy pays for, as it pays: it stays on the bill."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the record shall say of the decision, JSON-safe: ``arm`` and ``shadow``."""


@dataclass(frozen=True, slots=True)
class RouteRequest:
    """One request as the router and its policy see it.

    ``prompt_tokens`` is an estimate for prices and windows; ``prompt_tokens_max`` an upper bound
    that budgets reserve. ``remaining_usd`` is None without a budget.
    """

    messages: Sequence[BaseMessage]
    cost_weight: float = 0.0
    quality_target: float | None = None
    allow: frozenset[str] | None = None
    deny: frozenset[str] = frozenset()
    max_cost_usd: Decimal | None = None
    remaining_s: float | None = None
    """Seconds that are left for the whole request, failover included; None without a limit."""
    hedge_after_s: float | str | None = None
    """After how long without a first token another card is asked beside: seconds, or a quantile of
    the card's own times such as ``"p95"``; None for never."""
    thread_id: str | None = None
    tenant: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    needs: frozenset[str] = frozenset()
    """Capabilities that this request needs: ``tools``, ``structured_output``, ``vision``,
    ``files``, ``audio``, ``video``."""
    prompt_tokens: int = 0
    prompt_tokens_max: int = 0
    images: int = 0
    """Images among the messages, of which each model makes another number of tokens."""
    turn: int = 1
    max_turns: int = 1
    per_step: bool = False
    """Whether the policy is asked inside a tool loop too."""
    warm_tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens of this prompt that a card has in its provider's prompt cache, as far as can be told:
    a call to it costs the cached rate for them, a switch loses them."""
    answers: tuple[Answer, ...] = ()
    router_messages: tuple[BaseMessage, ...] = ()
    remaining_usd: Decimal | None = None
    default: str | None = None
    """The pool's default card."""
    unreachable: frozenset[str] = frozenset()
    """Cards that joined the pool after the graph was built, and so have no node in it."""
    request_id: str | None = None
    """The same on every turn of a request; None outside a graph."""
    bound: Mapping[str, Any] = field(default_factory=dict)
    """What the app bound and may cost something: ``n``, schemas, tools run by the provider."""
    overruns: Mapping[str, Decimal] = field(default_factory=dict)
    """Cards that have cost more than their worst case, and the factor to reserve them by."""
    max_tokens: int | None = None
    """The longest answer (tokens) that the app wants, and so the most that a budget reckons with;
    None where it does not say."""
    unpriced_usd: Decimal | None = None
    """What a budget counts for a call whose price is unknown; None where it refuses it."""
    caps: tuple[Any, ...] = ()
    """The limits that it shares with other requests; see
    :class:`~xrouter_lg.routing.spending.Spending`."""
    short_of: Any = None
    """The shared limit that leaves less than the request's own; None where none does."""
    attempt: Attempt = field(default_factory=Attempt)
    """Where a policy writes; all else here is only read."""

    @property
    def last_turn(self) -> bool:
        """Whether this is the last decision: there are answers, and no call may follow."""
        return self.turn >= self.max_turns and bool(self.answers)


@dataclass(frozen=True, slots=True)
class Action:
    """One thing a policy can do: call a card, select an earlier answer, or answer itself."""

    kind: Literal["call", "select", "answer"]
    card: str | None = None
    hint: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    call_id: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Proposal:
    """A policy's output.

    ``probabilities`` is over the candidates and orders failover; ties go to the cheaper card.
    ``actions`` is what the policy would do now; left empty, the router takes the most probable
    card.
    ``propensity`` is the probability with which ``actions`` was drawn, None where unknown (a
    chat model without logprobs).
    ``explore`` are the probabilities to explore by: for each candidate how likely it is the best
    one, given what the policy does not know (Thompson sampling). None: the policy can't tell, and
    ``probabilities`` are used.
    """

    probabilities: Mapping[str, float]
    actions: tuple[Action, ...] = ()
    propensity: float | None = None
    reason: str = ""
    quality: Mapping[str, float] | None = None
    message: AIMessage | None = None
    """The router model's own message, kept for the next turn."""
    prompt_hash: str | None = None
    token_ids: Mapping[str, Any] | None = None
    """``prompt_token_ids``, ``completion_token_ids`` and ``logprobs`` of a language model."""
    explore: Mapping[str, float] | None = None
    cost_usd: Mapping[str, float] | None = None
    """Expected USD of a call to each candidate, where the policy tells."""


_CALL_ID = re.compile(r"c(?:(\d+)_)?(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True, order=True)
class CallId:
    """Which of a request's calls: ``c2`` is the second of the first turn, ``c3_1`` the first of
    the third, ``c2.1`` the first that stood in for ``c2`` after it had failed."""

    turn: int
    index: int
    attempt: int = 0

    def __str__(self) -> str:
        turn = f"{self.turn}_" if self.turn > 1 else ""
        return f"c{turn}{self.index}" + (f".{self.attempt}" if self.attempt else "")

    @classmethod
    @lru_cache(maxsize=1024)
    def parse(cls, text: str) -> CallId:
        """The inverse of ``str``.

        Raises:
            ValueError: no id of a request's call.
        """
        found = _CALL_ID.fullmatch(text)
        if found is None:
            raise ValueError(f"call id {text!r} is not of the form c1, c2_1 or c1.1")
        turn, index, attempt = found.groups()
        return cls(int(turn or 1), int(index), int(attempt or 0))

    @property
    def proposed(self) -> CallId:
        """The call that was proposed, which this one is or stands in for."""
        return CallId(self.turn, self.index)


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """One call that the router decided on. ``allowance_usd`` is what was reserved for it."""

    id: str
    """A :class:`CallId` as text; whoever calls outside a request may name it otherwise."""
    card: str
    hint: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    allowance_usd: Decimal | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**shallow(self), "allowance_usd": usd_str(self.allowance_usd)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PlannedCall:
        return cls(**{**data, "allowance_usd": usd(data.get("allowance_usd"))})


@dataclass(frozen=True, slots=True)
class Decision:
    """What the router does on one turn, and why."""

    turn: int
    calls: tuple[PlannedCall, ...]
    order: tuple[str, ...]
    """Candidates in the policy's own order: the order of failover."""
    reason: str
    policy: str
    policy_version: str
    scores: Mapping[str, float]
    propensity: float | None
    select: str | None = None
    """The id of the earlier call whose answer is returned verbatim."""
    text: str | None = None
    """The router's own answer."""
    policy_error: str | None = None
    explored: bool = False
    prompt_hash: str | None = None
    removed: Mapping[str, str] = field(default_factory=dict)
    final: bool = True
    """Whether an answer to this turn's calls ends the request: the policy looks no further."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Proposed calls that were not made, by id, and why."""
    charges: tuple[Charge, ...] = ()
    message: AIMessage | None = None
    token_ids: Mapping[str, Any] | None = None
    quality: Mapping[str, float] | None = None
    """Expected score of each card, where the policy tells."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """``arm`` of a canary and ``shadow`` of a shadow policy; see :mod:`xrouter_lg.policies`."""
    explore: Mapping[str, float] | None = None
    """The probability with which each card would have been called, of those that could be drawn:
    ``propensity`` is the called card's. None where the router has drawn nothing."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form but for ``message``: what a checkpointer keeps between two steps."""
        data = shallow(self)
        copied = {n: dict(value) for n, value in data.items() if isinstance(value, Mapping)}
        return {
            **data,
            **copied,
            "calls": [call.to_dict() for call in self.calls],
            "charges": [charge.to_dict() for charge in self.charges],
            "order": list(self.order),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Decision:
        return cls(
            **{
                **data,
                "calls": tuple(PlannedCall.from_dict(call) for call in data["calls"]),
                "charges": tuple(Charge.from_dict(charge) for charge in data["charges"]),
                "order": tuple(data["order"]),
            }
        )


def known_fields(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``data`` a dataclass has a field for."""
    names, _ = _fields_of(kind)
    return {key: value for key, value in data.items() if key in names}


def shallow(value: Any) -> dict[str, Any]:
    """A dataclass's fields by name, their values as they are."""
    names, values_of = _fields_of(type(value))
    return dict(zip(names, values_of(value), strict=False))


_Fields = tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]
_FIELDS: dict[type, _Fields] = {}


def _fields_of(kind: type[Any]) -> _Fields:
    """The names of a dataclass's fields, in their order, and what reads them all; kept, since every
    step of a request asks for those of several and ``dataclasses.fields`` finds them anew."""
    found = _FIELDS.get(kind)
    if found is None:
        names = tuple(f.name for f in dataclasses.fields(kind))
        # Of a single name attrgetter would give the bare value.
        found = _FIELDS[kind] = names, attrgetter(*names, *names[:1])
    return found


def usd(value: str | Decimal | None) -> Decimal | None:
    """Decimal USD from its stored form; None stays None."""
    return None if value is None else Decimal(value)


def usd_str(value: Decimal | None) -> str | None:
    """Plain decimal notation (never ``1E-7``); None stays None."""
    if value is None:
        return None
    return format(value, "f")
