"""Which card's price holds for the model that a provider says has answered."""

from __future__ import annotations

from collections.abc import Iterable

from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.names import bare_name, same_model
from xrouter_lg.pool.price_list import listed_as
from xrouter_lg.pool.pricing import Price, published_price


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
    listed = listed_as(bare_name(served))
    if listed and listed == listed_as(bare_name(card.published_name)):
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
