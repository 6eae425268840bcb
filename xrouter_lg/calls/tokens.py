"""How many tokens a prompt has, before any provider has counted: an estimate and a bound."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from xrouter_lg.calls.media import (
    IMAGE_BOUND,
    NEEDS,
    Kind,
    Medium,
    image_bound,
    is_base64,
    medium_in,
    medium_of,
    unknown_medium,
)
from xrouter_lg.pool.card import ModelCard

CHARS_PER_TOKEN = 4
TOKENS_PER_MESSAGE = 4

# A byte-level tokenizer never makes more tokens than there are bytes; chat templates add role
# markers per message and a preamble of their own (Qwen's default system prompt is about 20).
BOUND_PER_MESSAGE = 16
BOUND_PREAMBLE = 64
BOUND_TOOL_PROMPT = 1_024
"""What a provider itself writes before tools: Anthropic documents up to 804 tokens."""

# Of what LangChain keeps beside a message, these say again what stands in it.
_SAID_AGAIN = frozenset({"tool_calls", "function_call"})


@dataclass(frozen=True, slots=True)
class PromptSize:
    """Tokens of a prompt. ``likely`` compares prices and windows (four ASCII characters a token,
    any other character a token); ``at_most`` is what a budget reserves (a token a byte, media at
    their largest), so that an estimate never overspends a limit."""

    likely: int
    at_most: int
    images: int
    needs: frozenset[str]
    """What a card has to be able to read: ``vision``, ``files``, ``audio``, ``video``."""

    def bound_for(self, card: ModelCard) -> int:
        """The most tokens that it makes for one card."""
        return prompt_bound(card, self.at_most, self.images, self.needs)


@dataclass(frozen=True, slots=True)
class ToolsSize:
    """What the first ``count`` tools of a prompt add to it, where they are the same every time."""

    count: int = 0
    narrow: int = 0
    wide: int = 0
    size: int = 0

    @classmethod
    def of(cls, tools: Sequence[Mapping[str, Any]]) -> ToolsSize:
        total = _Measure()
        for tool in tools:
            total.text(json.dumps(tool, default=str))
        return cls(len(tools), total.narrow, total.wide, total.size)


def prompt_size(
    messages: Sequence[BaseMessage],
    tools: Iterable[Mapping[str, Any]] = (),
    measured: ToolsSize = ToolsSize(),
) -> PromptSize:
    """The size of a prompt with these tools, the first of which may be ``measured`` already."""
    total = _Measure()
    total.narrow, total.wide, total.size = measured.narrow, measured.wide, measured.size
    likely, bound = 0, BOUND_PREAMBLE
    for message in messages:
        total.add(message.content)
        extras: list[Any] = [message.name, getattr(message, "tool_call_id", None)]
        if isinstance(message, AIMessage):
            extras += [*message.tool_calls, *message.invalid_tool_calls]
        for extra in filter(None, extras):
            total.text(json.dumps(extra, default=str))
        kept = {k: v for k, v in message.additional_kwargs.items() if k not in _SAID_AGAIN}
        if kept:  # thoughts, which some providers are sent again
            total.kept(kept)
        likely += TOKENS_PER_MESSAGE
        bound += BOUND_PER_MESSAGE
    for index, tool in enumerate(tools):
        if index >= measured.count:
            total.text(json.dumps(tool, default=str))
        bound += BOUND_PER_MESSAGE + (0 if index else BOUND_TOOL_PROMPT)
    return PromptSize(
        likely=likely + total.narrow // CHARS_PER_TOKEN + total.wide + total.media_likely,
        at_most=bound + total.size + total.media_at_most,
        images=total.media["image"],
        needs=frozenset(NEEDS[kind] for kind in total.media),
    )


def prompt_bound(card: ModelCard, at_most: int, images: int, needs: frozenset[str]) -> int:
    """The most tokens that a prompt makes for one card, of those that it makes for any: models
    differ in what they count for an image, and media never make more than the window holds."""
    bound = at_most - images * (IMAGE_BOUND - image_bound(card.published_name))
    if card.context_window is not None and needs & frozenset(NEEDS.values()):
        bound = min(bound, card.context_window)
    return bound


class _Measure:
    """ASCII characters, other characters, UTF-8 bytes and media of contents of any shape."""

    def __init__(self) -> None:
        self.narrow = self.wide = self.size = 0
        self.media_likely = self.media_at_most = 0
        self.media: Counter[Kind] = Counter()

    def text(self, text: str) -> None:
        ascii_count = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
        self.narrow += ascii_count
        self.wide += len(text) - ascii_count
        self.size += len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))

    def add(self, content: Any, depth: int = 8) -> None:
        """Walk a content to its leaves."""
        if isinstance(content, str):
            self.text(content)
        elif isinstance(content, Mapping):
            self._block(content, depth)
        elif isinstance(content, list | tuple):
            for part in content:
                self.add(part, depth)
        elif content is not None:
            self.text(str(content))

    def kept(self, beside: Mapping[str, Any]) -> None:
        """What LangChain keeps beside a message's content."""
        rest = dict(beside)
        spoken = rest.get("audio")
        if isinstance(spoken, Mapping):  # goes back by its id, to be read as its words or sound
            rest["audio"] = {name: value for name, value in spoken.items() if name != "data"}
            self._sized(medium_of({"type": "audio", "data": spoken.get("data")}))
        self.add(rest)

    def _sized(self, medium: Medium | None) -> None:
        if medium is not None:
            self.media_likely += medium.likely
            self.media_at_most += medium.at_most

    def _block(self, block: Mapping[str, Any], depth: int) -> None:
        medium = medium_of(block)
        if medium is not None:
            self.media[medium.kind] += 1
            self._sized(medium)
        elif isinstance(text := block.get("text"), str) and block.get("type") != "json":
            self.text(text)
        elif depth:
            for key, value in block.items():
                self.text(f'"{key}":')
                held = medium_in(value) if isinstance(value, str) else None
                if held is None and isinstance(value, str) and is_base64(value):
                    self._sized(unknown_medium(value))
                    continue
                if held is not None:
                    self.media[held.kind] += 1
                    self._sized(held)
                else:
                    self.add(value, depth - 1)
        else:
            self.text(json.dumps(block, default=str))
