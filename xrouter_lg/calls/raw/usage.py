"""Keep what LangChain drops of an answer: the provider's own counts, of which it keeps a sum of
tokens only, a refusal's words, and errors in the place of an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from functools import lru_cache
from typing import Any

from langchain_core.language_models import BaseChatModel

from xrouter_lg.calls.raw.cut_calls import marking_cut_calls
from xrouter_lg.calls.raw.gemini import keeping_gemini
from xrouter_lg.calls.raw.mistral import keeping_mistral
from xrouter_lg.calls.raw.openai_responses import runs_tools, watched
from xrouter_lg.calls.raw.openrouter import keeping_openrouter
from xrouter_lg.calls.raw.perplexity import keeping_perplexity
from xrouter_lg.calls.raw.watching import ErrorInAnswerError, error_in, in_the_place_of
from xrouter_lg.said import NATIVE_ENDING_KEY, RAW_USAGE_KEY
from xrouter_lg.said.message import mapping


def with_raw_usage(model: BaseChatModel) -> BaseChatModel:
    """A copy of a chat model that keeps what its class drops, in ``response_metadata``, where the
    class is one that we know how to ask: OpenAI's dialect, Anthropic's, Gemini's, Mistral's,
    OpenRouter's, Perplexity's. Any other model is given back as it is."""
    kind: Any = type(model)
    keeping = _keeping_of(kind)
    if keeping is None or getattr(kind, "_keeps_raw_usage", False):
        return model
    kept = model.model_copy()
    kept.__class__ = keeping(kind)
    return kept


def _keeping_of(kind: Any) -> Callable[[Any], type[Any]] | None:
    # By name: importing OpenAI's package takes a second, and another provider's app has no need.
    if any(base.__name__ == "BaseChatOpenAI" for base in kind.__mro__):
        return _keeping
    packages = (base.__module__.partition(".")[0] for base in kind.__mro__)
    return next((_KEEPING[name] for name in packages if name in _KEEPING), None)


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
        if found is not None and (choices := chunk.get("choices")):
            if refusal := _refusal(choices[0]):
                found.message.additional_kwargs["refusal"] = refusal
            _keep_native(found.message, choices[0].get(NATIVE_ENDING_KEY))
        return found

    async def _agenerate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not runs_tools(self, kwargs):
            return await kind._agenerate(self, *args, **kwargs)
        model, client = watched(self)
        result = await kind._agenerate(model, *args, **kwargs)
        for generation in result.generations:
            client.mark(generation.message)
        return result

    def _astream(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        told = marked_stream if runs_tools(self, kwargs) else kind._astream
        return marking_cut_calls(told(self, *args, **kwargs))

    async def marked_stream(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        model, client = watched(self)
        async for chunk in kind._astream(model, *args, **kwargs):
            client.mark(chunk.message)
            yield chunk

    def _create_chat_result(self: Any, response: Any, *args: Any, **kwargs: Any) -> Any:
        choices = getattr(response, "choices", None) or mapping(response).get("choices") or ()
        if not choices:
            said = response.model_dump() if hasattr(response, "model_dump") else response
            if (error := error_in(said, "choices")) is not None:
                raise ErrorInAnswerError(error)
        result = kind._create_chat_result(self, response, *args, **kwargs)
        for generation, choice in zip(result.generations, choices, strict=False):
            _keep_native(generation.message, getattr(choice, NATIVE_ENDING_KEY, None))
        return result

    methods = (_convert_chunk_to_generation_chunk, _create_chat_result, _agenerate, _astream)
    return in_the_place_of(kind, {method.__name__: method for method in methods})


def _refusal(choice: Any) -> str | None:
    """What a chunk says of a refusal. Of a stream with a schema (whose events hold their chunk) the
    class keeps it by itself."""
    return (choice.get("delta") or {}).get("refusal")


def _keep_native(message: Any, word: Any) -> None:
    """OpenRouter's word for how the provider behind it ended, of which its own is a translation."""
    if isinstance(word, str):
        message.response_metadata[NATIVE_ENDING_KEY] = word


@lru_cache(maxsize=8)
def _keeping_anthropic(kind: Any) -> type[Any]:
    def _format_output(self: Any, data: Any, **kwargs: Any) -> Any:
        if getattr(data, "content", None) is None and hasattr(data, "model_dump"):
            error = error_in(data.model_dump(exclude_none=True, warnings=False), "content")
            if error is not None:
                raise ErrorInAnswerError(error)
        return kind._format_output(self, data, **kwargs)

    def _make_message_chunk_from_anthropic_event(self: Any, event: Any, **kwargs: Any) -> Any:
        chunk, block = kind._make_message_chunk_from_anthropic_event(self, event, **kwargs)
        if chunk is not None and event.type in ("message_start", "message_delta"):
            usage = getattr(getattr(event, "message", event), "usage", None)
            counted = {} if usage is None else usage.model_dump(exclude_none=True, warnings=False)
            if chunk.response_metadata.get("stop_reason"):
                # What a stream begins with counts its first token: without a last count there is
                # none of the answer.
                counted = {"output_tokens": 0, **counted}
            if counted:
                chunk.response_metadata[RAW_USAGE_KEY] = [counted]
        return chunk, block

    def _astream(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        return marking_cut_calls(kind._astream(self, *args, **kwargs))

    methods = (_format_output, _make_message_chunk_from_anthropic_event, _astream)
    return in_the_place_of(kind, {method.__name__: method for method in methods})


_KEEPING: Mapping[str, Callable[[Any], type[Any]]] = {
    "langchain_anthropic": _keeping_anthropic,
    "langchain_google_genai": keeping_gemini,
    "langchain_mistralai": keeping_mistral,
    "langchain_openrouter": keeping_openrouter,
    "langchain_perplexity": keeping_perplexity,
}
