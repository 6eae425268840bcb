"""The tokens of an answer, by every kind that a provider bills apart.

Read from LangChain's ``usage_metadata`` and, where it is kept, from the provider's own count, which
knows kinds that LangChain drops. Kinds have the names of genai-prices' units. Where a count
contradicts itself, what was billed is the larger reading: providers differ in whether a part stands
inside its total or beside it, and no part can be larger than the total that it is inside of.
"""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from xrouter_lg.said.bill import raw_usages
from xrouter_lg.said.ending import says_something
from xrouter_lg.said.hosted import hosted_units, number, told_units
from xrouter_lg.said.message import fields_of, mapping, response_metadata_of
from xrouter_lg.types import TokenUsage

_INPUT = {
    "cache_read": "cache_read_tokens",
    "cache_read_input": "cache_read_tokens",
    "cached": "cache_read_tokens",
    "cache_creation": "cache_write_tokens",
    "cache_creation_input": "cache_write_tokens",
    "cache_write": "cache_write_tokens",
    "ephemeral_5m_input": "cache_write_5m_tokens",
    "ephemeral_1h_input": "cache_write_1h_tokens",
    "audio": "input_audio_tokens",
    "image": "input_image_tokens",
    "video": "input_video_tokens",
}
_OUTPUT = {
    "reasoning": "output_reasoning_tokens",
    "thinking": "output_reasoning_tokens",
    "audio": "output_audio_tokens",
    "image": "output_image_tokens",
    "video": "output_video_tokens",
    "citation": "output_citation_tokens",
}
# Parts that cost what their side costs: a rejected prediction is billed as what was written.
_PLAIN = frozenset({"text", "accepted_prediction", "rejected_prediction", "tool_use_prompt"})
# LangChain writes the tier in front of a kind, and what is left of the side under the tier alone.
_TIERS = frozenset(
    {"auto", "batch", "default", "flex", "on_demand", "priority", "scale", "standard"}
)
_TOP = {
    "cached_tokens": "cache_read_tokens",  # Moonshot's and Together's
    "prompt_cache_hit_tokens": "cache_read_tokens",
    "cached_prompt_text_tokens": "cache_read_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
    "reasoning_tokens": "output_reasoning_tokens",
    "citation_tokens": "output_citation_tokens",
}
_DETAILS = tuple(
    (f"{name}_{form}", side, known)
    for side, known, names in (
        ("input", _INPUT, ("input", "prompt")),
        ("output", _OUTPUT, ("output", "completion")),
    )
    for name in names
    for form in ("token_details", "tokens_details")
)
"""Where the parts of a side stand in a count."""
_SIDES = ("input_tokens", "prompt_tokens", "output_tokens", "completion_tokens")
_WRITES = ("cache_write_5m_tokens", "cache_write_1h_tokens")
_NAMED = frozenset(
    {
        *("cache_read_tokens", "cache_write_tokens"),
        *("cache_write_5m_tokens", "output_reasoning_tokens"),
    }
)
"""Kinds that :class:`TokenUsage` has a field for, or that are its default."""


def usage_of(message: Any) -> TokenUsage | None:
    """The tokens that a provider reported with an answer, and what its own tools did. None where
    it reported none, or those of one side alone: no answer is made of nothing, and none that says
    something of no tokens."""
    usage = told_usage_of(message)
    return None if usage is None or _is_half(usage, message) else usage


def told_usage_of(message: Any) -> TokenUsage | None:
    """As :func:`usage_of`, of one side too: the least that an answer can have taken."""
    fields, meta = fields_of(message), response_metadata_of(message)
    raw, provider = raw_usages(meta), meta.get("model_provider")
    usage = _counted(fields.get("usage_metadata"), raw, provider)
    if usage is None:
        return None
    extra = mapping(fields.get("additional_kwargs"))
    units = hosted_units(fields.get("content"), extra, meta, _joined(raw, provider))
    return usage.with_kinds(units) if units else usage


def counted(
    count: Any,
    raw: Sequence[Mapping[str, Any]] = (),
    *,
    provider: Any = None,
    answer: Any = None,
) -> TokenUsage | None:
    """Tokens of a count in LangChain's form, and in the provider's own where that is known too.
    Several of the latter are those of a stream's chunks. ``answer`` is the message that was
    counted, where it is known: one that says something has taken tokens. None of half a count."""
    usage = _counted(count, raw, provider)
    return None if usage is None or _is_half(usage, answer) else usage


def _is_half(usage: TokenUsage, answer: Any) -> bool:
    """Whether the tokens of one side alone were told: half a count would pass for a low cost."""
    return not usage.input_tokens or (not usage.output_tokens and says_something(answer))


def _counted(count: Any, raw: Sequence[Mapping[str, Any]], provider: Any) -> TokenUsage | None:
    found = _read(mapping(count))
    raw = _joined(raw, provider)
    if len(raw) > 1:
        found = _streamed([_read(each) for each in raw])
    elif raw:
        found = found.joined(_read(raw[0]))
    if not found.inputs and not found.outputs:
        return None
    if any(_is_broken(each) for each in (mapping(count), *raw)):
        return None  # half a count would pass for a low cost
    usage = found.settled(beside=provider == "perplexity")
    units = told_units([mapping(count), *raw])
    return usage.with_kinds(units) if units else usage


def _joined(raw: Sequence[Mapping[str, Any]], provider: Any) -> Sequence[Mapping[str, Any]]:
    """The counts of a stream; of Anthropic's one, since each says anew what has changed."""
    if len(raw) > 1 and provider == "anthropic":
        return [dict(ChainMap(*map(dict, reversed(raw))))]
    return raw


@dataclass(slots=True)
class _Count:
    """One count as it was reported, by side; ``total`` is 0 where none was given."""

    inputs: int = 0
    outputs: int = 0
    total: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)

    def joined(self, other: _Count) -> _Count:
        """Two readings of the same count: neither may hide what the other knows."""
        return _Count(
            max(self.inputs, other.inputs),
            max(self.outputs, other.outputs),
            max(self.total, other.total),
            self.kinds | other.kinds,
            self.unknown | other.unknown,
        )

    def settled(self, *, beside: bool) -> TokenUsage:
        """The usage that was billed. ``beside``: reasoning is no part of the output's count."""
        kinds, inputs, outputs = self.kinds, self.inputs, self.outputs
        written = max(_of(kinds, "cache_write_tokens"), _apart(kinds))
        if written:
            kinds["cache_write_tokens"] = written
        cached = _of(kinds, "cache_read_tokens")
        if cached + written > inputs:
            inputs += cached + written
        reasoning = _of(kinds, "output_reasoning_tokens")
        citations = _of(kinds, "output_citation_tokens")
        if reasoning > outputs or beside:
            outputs += reasoning
        outputs += citations
        for name, tokens in [*kinds.items(), *self.unknown.items()]:
            if name.startswith("input_"):
                inputs = max(inputs, tokens)
            elif name.startswith("output_"):
                outputs = max(outputs, tokens)
        # Whatever the total knows of and no side does was thought or written.
        outputs = max(outputs, self.total - inputs)
        return TokenUsage(
            input_tokens=inputs,
            output_tokens=outputs,
            cached_input_tokens=cached,
            cache_write_tokens=written,
            reasoning_tokens=reasoning,
            kinds={k: n for k, n in sorted(kinds.items()) if n and k not in _NAMED},
            unknown={k: n for k, n in sorted(self.unknown.items()) if n},
        )


def _read(count: Mapping[str, Any]) -> _Count:
    found = _Count(
        _first(count, "input_tokens", "prompt_tokens"),
        _first(count, "output_tokens", "completion_tokens"),
        number(count.get("total_tokens")),
    )
    for key, kind in _TOP.items():
        if tokens := number(count.get(key)):
            found.kinds[kind] = max(_of(found.kinds, kind), tokens)
    for name, side, known in _DETAILS:
        if name in count:
            _details(mapping(count[name]), side, known, found)
    _details(mapping(count.get("cache_creation")), "input", _INPUT, found)
    excludes_cache = "cache_read_input_tokens" in count or "cache_creation_input_tokens" in count
    if excludes_cache and not _adds_up(count, found):  # Anthropic's own count
        found.inputs += _of(found.kinds, "cache_read_tokens") + max(
            _apart(found.kinds), _of(found.kinds, "cache_write_tokens")
        )
    for each in map(mapping, _listed(count.get("iterations"))):
        if each.get("type") == "compaction":  # which stands in no total
            summed = _read(each)
            found.inputs += summed.inputs
            found.outputs += summed.outputs
            found.kinds += summed.kinds
    return found


def _is_broken(count: Mapping[str, Any]) -> bool:
    """Whether a side of a count is no number of tokens: below zero, or more than there are."""
    return any(
        (value := count.get(name)) and not number(value) and isinstance(value, int | float)
        for name in _SIDES
    )


def _of(kinds: Counter[str], kind: str) -> int:
    """As ``kinds[kind]``, which takes a call for each kind that is not there."""
    return kinds.get(kind, 0)


def _apart(kinds: Counter[str]) -> int:
    """Tokens written to the cache by how long they stay there."""
    return sum(kinds.get(kind, 0) for kind in _WRITES)


def _adds_up(count: Mapping[str, Any], found: _Count) -> bool:
    """Whether a count of OpenAI's dialect is whole by its own total: a gateway (LiteLLM) repeats
    Anthropic's names beside a prompt that has the cache in it."""
    return "prompt_tokens" in count and found.total == found.inputs + found.outputs


def _details(
    details: Mapping[str, Any], side: str, known: Mapping[str, str], found: _Count
) -> None:
    """Add the parts of one side."""
    for key, value in details.items():
        if type(value) is dict:  # a part's own parts: how long it is written for
            _details(value, side, known, found)
            continue
        tokens = number(value)
        name = str(key).removesuffix("_tokens")
        tier, _, rest = name.partition("_")
        if tier in _TIERS:
            name = rest
        if not tokens or not name or name in _PLAIN:
            continue
        if name in known:
            kind = known[name]
            found.kinds[kind] = max(found.kinds[kind], tokens)
        else:
            found.unknown[f"{side}_{name}"] += tokens


def _streamed(counts: Sequence[_Count]) -> _Count:
    """The count of a stream from those of its chunks: the last one where each repeats what was
    said before and adds to it, else their sum, in which a repeated prompt counts once."""
    counts = [count for count in counts if count.inputs or count.outputs] or list(counts)
    inputs = [count.inputs for count in counts]
    outputs = [count.outputs for count in counts]
    # A token each, as often as that, is what a chunk has and no repeated total.
    singly = len(outputs) > 2 and set(outputs) == {1}
    if all(inputs) and inputs == sorted(inputs) and outputs == sorted(outputs) and not singly:
        return counts[-1]
    summed = _Count()
    for count in counts:
        summed.inputs += count.inputs
        summed.outputs += count.outputs
        summed.total += count.total
        summed.kinds += count.kinds
        summed.unknown += count.unknown
    if all(inputs) and len(set(inputs)) == 1:
        summed.inputs, summed.total = inputs[0], 0
        for parts, each in (
            (summed.kinds, [count.kinds for count in counts]),
            (summed.unknown, [count.unknown for count in counts]),
        ):
            for name in parts:
                if not name.startswith("output_"):
                    parts[name] = max(part[name] for part in each)
    return summed


def _first(count: Mapping[str, Any], *names: str) -> int:
    return next((n for name in names if (n := number(count.get(name)))), 0)


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()
