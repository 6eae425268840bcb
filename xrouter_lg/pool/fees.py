"""What providers bill beside the tokens of the model that answers: searches, code that they run,
pictures that a tool of theirs makes, sound by its length, and tokens of a second model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Fee:
    """One kind of unit, by its name in :attr:`~xrouter_lg.types.TokenUsage.kinds`."""

    key: str
    """The key of a card's price."""
    usual: Decimal
    """USD for ``per`` units where a card says nothing: the dearest that is published."""
    per: int = 1
    """How many units a price is for."""
    times: int = 1
    """How many of the key's own units one of these is."""
    rate: str | None = None
    """The rate of the model that makes it, where that is known by name."""


FEES: Mapping[str, Fee] = {
    # OpenAI and Anthropic: USD 10 per 1,000; xAI's searches of posts cost half of that.
    "web_searches": Fee("web_search", Decimal("0.01")),
    "social_searches": Fee("web_search", Decimal("0.01")),
    "storage_searches": Fee("file_search", Decimal("0.0025")),
    # OpenAI: a container of 1 GB; larger ones in proportion. Mistral asks as much for each run.
    "code_executions": Fee("code_execution", Decimal("0.03")),
    "code_executions_4g": Fee("code_execution", Decimal("0.12"), times=4),
    "code_executions_16g": Fee("code_execution", Decimal("0.48"), times=16),
    "code_executions_64g": Fee("code_execution", Decimal("1.92"), times=64),
    # Anthropic: USD 0.05 an hour, five minutes at least.
    "code_executions_5m": Fee("code_execution", Decimal("0.05") / 12),
    "image_tool_text_tokens": Fee("image_tool_input", Decimal(5), _MILLION, rate="input"),
    "image_tool_input_tokens": Fee("image_tool_input", Decimal(10), _MILLION, rate="input_image"),
    "image_tool_output_tokens": Fee(
        "image_tool_output", Decimal(40), _MILLION, rate="output_image"
    ),
    "input_audio_seconds": Fee("input_audio_hour", Decimal("0.48"), 3600),
}

SECOND_MODEL: Mapping[str, tuple[str, str]] = {
    "other_input_tokens": ("input", "input"),
    "other_cached_tokens": ("input", "cached_input"),
    "other_cache_write_tokens": ("input", "cache_write"),
    "other_output_tokens": ("output", "output"),
}
"""Tokens of a model that the answering one has asked: their side, and the rate of that model."""


def unit_and_model(kind: str) -> tuple[str, str]:
    """A kind's unit, and the model that it is of where the kind names one: both with a space
    between them (``image_tool_output_tokens gpt-image-1.5``)."""
    unit, _, model = kind.partition(" ")
    return unit, model


def is_fee(kind: str) -> bool:
    """Whether a kind is billed beside the tokens of the answering model."""
    unit, _ = unit_and_model(kind)
    return unit in FEES or unit in SECOND_MODEL
