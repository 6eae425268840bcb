"""Keep what LangChain drops of a stream: the provider's own counts, of which it keeps a sum of
tokens only, and a refusal's words."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from langchain_core.language_models import BaseChatModel

from xrouter_lg.calls.raw.gemini import keeping_gemini
from xrouter_lg.calls.raw.perplexity import keeping_perplexity
from xrouter_lg.calls.raw.watching import in_the_place_of
from xrouter_lg.said import RAW_USAGE_KEY


def keep_raw_usage(model: BaseChatModel) -> None:
    """Have a chat model of OpenAI's dialect, Perplexity's or Gemini's keep its own counts in
    ``response_metadata``, and a refusal where an answer that is not streamed has it; any other
    model stays as it is."""
    kind: Any = type(model)
    if getattr(kind, "_keeps_raw_usage", False):
        return
    # By name: importing OpenAI's package takes a second, and another provider's app has no need.
    if any(base.__name__ == "BaseChatOpenAI" for base in kind.__mro__):
        model.__class__ = _keeping(kind)
    elif kind.__module__.startswith("langchain_perplexity."):
        model.__class__ = keeping_perplexity(kind)
    elif kind.__module__.startswith("langchain_google_genai."):
        model.__class__ = keeping_gemini(kind)


@lru_cache(maxsize=32)
def _keeping(kind: type[Any]) -> type[Any]:
    def _convert_chunk_to_generation_chunk(
        self: Any, chunk: Any, default_chunk_class: type, base_generation_info: Any
    ) -> Any:
        found = kind._convert_chunk_to_generation_chunk(
            self, chunk, default_chunk_class, base_generation_info
        )
        usage = chunk.get("usage") or (chunk.get("chunk") or {}).get("usage")
        if found is not None and usage:
            found.message.response_metadata[RAW_USAGE_KEY] = [dict(usage)]
        if found is not None and (refusal := _refusal(chunk)):
            found.message.additional_kwargs["refusal"] = refusal
        return found

    return in_the_place_of(
        kind, {"_convert_chunk_to_generation_chunk": _convert_chunk_to_generation_chunk}
    )


def _refusal(chunk: Any) -> str | None:
    """What a chunk says of a refusal. Of a stream with a schema (whose events hold their chunk) the
    class keeps it by itself."""
    choices = chunk.get("choices")
    delta = choices[0].get("delta") if choices else None
    return (delta or {}).get("refusal")
