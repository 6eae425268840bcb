"""Which card's price holds for the model that a provider says has answered."""

from __future__ import annotations

import re
from collections.abc import Iterable

from xrouter_lg.pool.pool import ModelCard
from xrouter_lg.pool.pricing import Price, listed_as, published_price

# Dated snapshots (-2025-04-14, -20250805, @20250805, -0709, -001), "-latest", Bedrock's versions
# and OpenRouter's variant.
_SNAPSHOT = re.compile(
    r"(?:[-@](?:\d{4}-\d{2}-\d{2}|\d{8}|\d{6}|\d{4}|\d{3}|latest)|-v\d+(?::\d+)?|-\d:\d|:[a-z]+)+$"
)
_LONGEST = 200
"""Characters of a name that a provider may have thought of."""
_BEFORE_NAME = re.compile(
    r"^(?:[a-z-]{2,6}\.)?"
    r"(?:anthropic|amazon|meta|mistral|cohere|deepseek|openai|qwen|google|minimax|moonshot|nvidia)\."
)


def price_as_served(card: ModelCard, served: str | None, pool: Iterable[ModelCard]) -> Price | None:
    """The price of what was served in a card's name: the card's own for its model under any of its
    names, another card's where that one's model has answered, else the published one; None where
    nobody knows it.

    A server of the user's own names its models as it likes: where neither name is a published
    model's, nothing says that it was another one.
    """
    if served is None or served == card.model_name or is_of(card, served):
        return card.effective_price
    if card.price is not None and _is_deployment(card):
        return card.effective_price
    for other in pool:
        if is_of(other, served):
            return other.effective_price
    if (listed := listed_as(_bare(served))) and listed == listed_as(_bare(card.published_name)):
        return card.effective_price  # an alias: claude-opus-4-0 and claude-opus-4-20250514
    if card.base_url is None:
        stranger = published_price(card.provider, served)
        if stranger is not None:
            return stranger
    elif not any(published_price(None, name) for name in (served, card.model_name)):
        return card.effective_price
    return None


def _is_deployment(card: ModelCard) -> bool:
    """Whether the card's model has a name that its user gave it, at Azure."""
    azures = card.provider == "azure_openai" or type(card.model).__name__ == "AzureChatOpenAI"
    return azures and listed_as(card.model_name) is None


def is_of(card: ModelCard, served: str) -> bool:
    """Whether a served model's name is the card's, or of the model that the card says it serves."""
    return same_model(served, card.model_name) or (
        card.serves is not None and same_model(served, card.published_name)
    )


def same_model(one: str, other: str) -> bool:
    """Whether two names are of one model: a vendor in front and a snapshot's date behind are no
    part of it."""
    return one == other or _plain(one) == _plain(other)


def _bare(name: str) -> str:
    """A model's name without who offers it."""
    name = name.lower().rpartition("/")[2].removesuffix(".gguf")
    return _BEFORE_NAME.sub("", name)


def _plain(name: str) -> str:
    name = _bare(name)
    return name if len(name) > _LONGEST else _SNAPSHOT.sub("", name) or name
