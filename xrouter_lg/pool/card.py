"""A card: one model of the pool, how to build it, what it costs and can do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel

from xrouter_lg.errors import PoolError
from xrouter_lg.json_text import shown
from xrouter_lg.pool.bare import short
from xrouter_lg.pool.checks import (
    check_number,
    check_url,
    check_values,
    checked_params,
    is_variable,
)
from xrouter_lg.pool.handed_in import unwrapped
from xrouter_lg.pool.pricing import Price, published_price
from xrouter_lg.pool.profiles import maker_of, profile_of
from xrouter_lg.types import ROUTER_ROUTE, TokenUsage

CAPABILITIES = frozenset(
    {"tools", "structured_output", "reasoning", "vision", "files", "audio", "video"}
)
"""What a card can be asked for; a request that needs one never reaches a card that is known to be
without it."""

_ASSUMED = frozenset({"tools", "structured_output"})
"""What a card can do where neither it nor LangChain's profile of the model says."""

DEFAULT_MAX_OUTPUT_TOKENS = 4096
"""Output tokens that a budget reserves for a card that states no ``max_output_tokens``."""

SEARCH_OPTION = "web_search_options"
"""What has a model of OpenAI's chat completions search before each answer."""
_SEARCH_MODEL = re.compile(r"-search-(preview|api)")

TYPICAL_OUTPUT_TOKENS = 300
"""Output tokens assumed where two cards are compared by price before either has answered."""

# With a base_url only these prefixes are providers (langchain 1.4 has them): "llama3:8b" is the
# name that a server of the user's own gives its model.
# fmt: off
_PROVIDERS = frozenset({
    "anthropic", "anthropic_bedrock", "azure_ai", "azure_openai", "baseten", "bedrock",
    "bedrock_converse", "bedrock_mantle_anthropic", "bedrock_mantle_openai", "cohere", "deepseek",
    "fireworks", "google_anthropic_vertex", "google_genai", "google_vertexai", "groq",
    "huggingface", "ibm", "langsmith", "litellm", "meta", "mistralai", "nvidia", "ollama",
    "openai", "openrouter", "perplexity", "together", "upstage", "xai",
})
# fmt: on

# OpenAI allows 64 characters in a tool's name; "call_" takes five.
_NAME = re.compile(r"^[a-z0-9_]{1,59}$")


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelCard:
    """One model of the pool.

    ``model`` is an ``init_chat_model`` string (``openai:gpt-5-mini``), a chat model (what ``bind``
    and ``with_retry`` add to one becomes the card's), or, with ``base_url``, the name that an
    OpenAI-compatible server gives it. ``price`` is a
    :class:`Price` or a mapping in USD per million tokens; left out, genai-prices is asked.

    Raises:
        PoolError: a value is wrong; the message names the card, the field and the fix.
    """

    name: str
    """``[a-z0-9_]+`` after normalisation: it becomes the tool ``call_<name>``."""
    model: str | BaseChatModel
    """A chat model may have keywords bound (``model.bind(temperature=0)``): they become
    ``params``."""
    base_url: str | None = None
    api_key_env: str | None = None
    """The name of the variable that holds the key, never the key."""
    price: Price | Mapping[str, Any] | None = None
    context_window: int | None = None
    """Tokens of prompt and answer together. Left out, LangChain's profile of the model says; None
    where unknown, and then never a reason."""
    max_output_tokens: int | None = None
    capabilities: frozenset[str] = None  # type: ignore[assignment]  # a set once it is made
    """All that it can do. Left out, LangChain's profile of the model says; what nobody says is no
    reason to pass a card over."""
    description: str = ""
    timeout_s: float = 60.0
    """Seconds for one attempt."""
    max_retries: int = 2
    """Further attempts on the same card after a failure that may pass."""
    params: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Further keyword arguments for the chat model (``temperature``, ``reasoning_effort``): of its
    constructor, or of each call where the chat model was handed in."""
    serves: str | None = None
    """The published model behind the name that a gateway or a deployment gives it, as
    ``provider:model`` or the model's name alone: its published price and its profile hold where the
    card is silent, and an answer that names it is this card's."""

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        check_values("card", [getattr(self, f.name) for f in fields(self) if f.init])
        put("name", normalise_name(self.name))
        where = f"card {self.name!r}"
        handed_in = None if isinstance(self.model, str) else unwrapped(where, self.model)
        if handed_in is not None:
            put("model", handed_in.model)
        elif not isinstance(self.model, str) or not self.model:
            raise PoolError(
                f"{where}: model is {short(self.model)}; give an init_chat_model string such as "
                "'openai:gpt-5-mini', a chat model, or a server's model name with base_url"
            )
        if isinstance(self.model, str) and self.base_url is None and not self.provider:
            raise PoolError(
                f"{where}: model {shown(self.model)} names no provider; write 'provider:model', "
                "or add base_url for an OpenAI-compatible server"
            )
        if self.provider and not self.model_name.strip():
            raise PoolError(
                f"{where}: model {shown(self.model)} names no model of {self.provider}; write "
                f"'{self.provider}:model'"
            )
        if self.base_url is not None:
            check_url(where, self.base_url)
        if self.api_key_env is not None and not is_variable(self.api_key_env):
            # The value may be a key that was pasted here by mistake: never repeat it.
            raise PoolError(
                f"{where}: api_key_env must be the NAME of an environment variable "
                "(letters, digits, _); the key itself goes into that variable"
            )
        if self.serves is not None and (not isinstance(self.serves, str) or not self.serves):
            raise PoolError(
                f"{where}: serves is {self.serves!r}; name the published model behind it, such as "
                "'openai:gpt-5-mini'"
            )
        profile = None if self.published is None else profile_of(*self.published)
        given = {"capabilities": self.capabilities, "context_window": self.context_window}
        put("from_profile", frozenset(n for n, value in given.items() if value is None and profile))
        known, abilities = None, self.capabilities
        if abilities is None:
            known = profile.capabilities if profile else {}
            abilities = {n for n in CAPABILITIES if known.get(n, n in _ASSUMED)}
        put("_known", known)
        if self.context_window is None and profile is not None:
            put("context_window", profile.context_window)
        listed = [abilities] if isinstance(abilities, str) else abilities
        if not isinstance(listed, Iterable):
            raise PoolError(
                f"{where}: capabilities is {shown(listed)}; give a list out of "
                f"{', '.join(sorted(CAPABILITIES))}"
            )
        capabilities = frozenset(map(str, listed))
        if unknown := sorted(capabilities - CAPABILITIES):
            raise PoolError(
                f"{where}: unknown capability {shown(unknown[0])}; known: "
                f"{', '.join(sorted(CAPABILITIES))}"
            )
        put("capabilities", capabilities)
        for name in ("context_window", "max_output_tokens"):
            value = getattr(self, name)
            check_number(where, name, value, whole=True, least=1, most=10**9, optional=True)
        check_number(where, "timeout_s", self.timeout_s, whole=False, least=0.001, most=10**6)
        check_number(where, "max_retries", self.max_retries, whole=True, least=0, most=100)
        if isinstance(self.price, Mapping):
            put("price", Price.parse(self.price, where=where))
        elif self.price is not None and not isinstance(self.price, Price):
            raise PoolError(
                f"{where}: price is {shown(self.price)}; give a mapping such as "
                "{input: 0.02, output: 0.06} in USD per million tokens"
            )
        if not isinstance(self.description, str):
            raise PoolError(f"{where}: description is {shown(self.description)}; it must be text")
        put("params", checked_params(where, self.params))
        if handed_in is not None:
            put("params", {**handed_in.options, **self.params})
            put("max_retries", max(self.max_retries, handed_in.retries))

    from_profile: frozenset[str] = field(default=frozenset(), init=False, repr=False)
    """Fields that LangChain's profile of the model has filled in."""

    @property
    def capabilities_told(self) -> bool:
        """Whether the card itself says what it can do."""
        return getattr(self, "_known", None) is None

    def can(self, need: str) -> bool | None:
        """Whether the card has a capability; None where nobody knows."""
        if need in self.capabilities:
            return True
        return False if self.lacks(need) else None

    def lacks(self, need: str) -> bool:
        """Whether the card is known to be without a capability."""
        known: Mapping[str, bool] | None = getattr(self, "_known", None)
        if known is None:
            return need not in self.capabilities
        return known.get(need) is False

    @cached_property
    def tool_name(self) -> str:
        """Name of the tool and of the graph node that call this card."""
        return f"call_{self.name}"

    @cached_property
    def provider(self) -> str | None:
        """The provider in front of an ``init_chat_model`` string, None where there is none."""
        if not isinstance(self.model, str):
            return None
        head, colon, _ = self.model.partition(":")
        if not colon or (self.base_url is not None and head not in _PROVIDERS):
            return None
        return head if re.match(r"^[a-z][a-z0-9_]*$", head) else None

    @cached_property
    def maker(self) -> str | None:
        """The provider whose protocol the model's class speaks, by LangChain's name: the one in
        front of the model, OpenAI for a ``base_url`` alone, the package of a chat model that was
        handed in, or what such a model says of itself."""
        if isinstance(self.model, str):
            return self.provider or "openai"
        return maker_of(self.model)

    @cached_property
    def model_name(self) -> str:
        """The model's name as its provider knows it."""
        if isinstance(self.model, str):
            return self.model.partition(":")[2] if self.provider else self.model
        for attribute in ("model_name", "model"):
            if isinstance(value := getattr(self.model, attribute, None), str):
                return value
        return type(self.model).__name__

    @cached_property
    def published_name(self) -> str:
        """The model's name as its maker published it, as far as the card says."""
        return self.model_name if self.published is None else self.published[1]

    @cached_property
    def published(self) -> tuple[str | None, str] | None:
        """Provider and name under which the published lists know the model; None for a server of
        the user's own of which ``serves`` says nothing: whatever it calls its model."""
        if self.serves is not None:
            head, _, name = self.serves.partition(":")
            return (head, name) if head in _PROVIDERS and name else (None, self.serves)
        if self.base_url is not None or _elsewhere(self.model):
            return None
        return self.maker, self.model_name.removeprefix("models/")

    @cached_property
    def sent_params(self) -> Mapping[str, Any]:
        """What the model sends along by itself: ``params``, or the settings of a chat model that
        was handed in."""
        if isinstance(self.model, str):
            return self.params
        own = self.model.model_fields_set.difference(BaseChatModel.model_fields)
        return {**{name: getattr(self.model, name) for name in own}, **self.params}

    @cached_property
    def searches_always(self) -> bool:
        """Whether each answer has had a search, of which it says nothing."""
        sent = self.sent_params
        asked = SEARCH_OPTION in sent or SEARCH_OPTION in (sent.get("model_kwargs") or {})
        return self.maker == "openai" and (asked or bool(_SEARCH_MODEL.search(self.model_name)))

    @cached_property
    def effective_price(self) -> Price | None:
        """The card's own price, else the published one, else None: unknown."""
        if isinstance(self.price, Price):
            return self.price
        if self.published is None:
            return None
        provider, name = self.published
        tier = self.sent_params.get("service_tier")
        tier = tier if isinstance(tier, str) else None
        found = published_price(provider, name, tier)
        if found is None and not isinstance(self.model, str):
            found = published_price(None, name, tier)  # a package whose name the list lacks
        return found

    def estimate_usd(
        self, input_tokens: int, output_tokens: int | None = None, cached_tokens: int = 0
    ) -> Decimal | None:
        """Expected cost (USD) of a request, None where the price is unknown. ``cached_tokens`` of
        the input are read from the provider's prompt cache."""
        price = self.effective_price
        if price is None:
            return None
        outputs = TYPICAL_OUTPUT_TOKENS if output_tokens is None else output_tokens
        if self.max_output_tokens is not None:
            outputs = min(outputs, self.max_output_tokens)
        usage = TokenUsage(input_tokens, outputs, cached_tokens)
        return Price.cost(price.at(input_tokens), usage)

    def fingerprint_data(self) -> dict[str, Any]:
        """What makes this card what it is, without secrets; hashed into the pool's fingerprint."""
        price = self.effective_price
        return {
            "name": self.name,
            "model": self.model_name,
            "provider": self.provider,
            "base_url": self.base_url,
            "price": None if price is None else price.to_dict(),
            "context_window": self.context_window,
            "max_output_tokens": self.max_output_tokens,
            "capabilities": sorted(self.capabilities),
            "description": self.description,
            "params": dict(self.params),
            **({} if self.serves is None else {"serves": self.serves}),
        }


def _elsewhere(model: object) -> bool:
    """Whether a chat model that was handed in asks a server of the user's own."""
    url = getattr(model, "openai_api_base", None)
    return isinstance(url, str) and urlsplit(url).hostname != "api.openai.com"


def normalise_name(name: object) -> str:
    """A card's name as a tool name: lower case, ``-``, ``.``, ``/`` and blanks become ``_``.

    Raises:
        PoolError: what is left is not ``[a-z0-9_]{1,59}``, or is reserved.
    """
    if not isinstance(name, str):
        raise PoolError(f"a card's name is {shown(name)}; it must be text")
    normal = re.sub(r"[-./\s]+", "_", name.strip().lower())
    if not _NAME.match(normal):
        raise PoolError(
            f"card name {shown(name)} can't become the tool name call_<name>: use 1 to 59 letters, "
            "digits, '_', '-' or '.'"
        )
    if normal == ROUTER_ROUTE:
        raise PoolError(
            f"card name {shown(name)} is reserved for answers by the router itself; rename the card"
        )
    return normal
