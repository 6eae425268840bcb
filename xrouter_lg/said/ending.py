"""How an answer ended: whole, or what is wrong with it. Only endings known as good are whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from xrouter_lg.errors import ErrorClass
from xrouter_lg.said.message import (
    fields_of,
    mapping,
    other_blocks,
    response_metadata_of,
    text_of,
)

CUT = frozenset({ErrorClass.TRUNCATED, ErrorClass.CONTENT_FILTER})
"""Flaws that may leave a part of an answer, which is handed on marked as cut."""

# The words of OpenAI (and those who speak its dialect), Anthropic, Google, Mistral, Cohere, Ollama,
# Bedrock and GLM, in lower case.
_WHOLE = frozenset(
    {
        "stop", "tool_calls", "function_call",
        "end_turn", "stop_sequence", "tool_use",
        "complete", "completed", "tool_call", "eos", "eos_token", "finished", "requires_action",
    }
)  # fmt: skip
_FILTERED = frozenset(
    {
        "content_filter", "content_filtered", "refusal", "guardrail_intervened",
        "safety", "recitation", "blocklist", "prohibited_content", "spii", "image_safety",
        "image_prohibited_content", "image_recitation", "language", "error_toxic", "sensitive",
    }
)  # fmt: skip
_BROKEN_OFF = frozenset(
    {
        "error", "abort", "aborted", "cancelled", "failed", "insufficient_system_resource",
        "engine_overloaded", "server_error", "network_error", "other", "image_other",
    }
)  # fmt: skip
_MALFORMED = frozenset(
    {
        *("malformed_function_call", "unexpected_tool_call", "too_many_tool_calls"),
        *("malformed_response", "missing_thought_signature"),
    }
)
_LENGTH = frozenset({"length", "max_tokens"})
_CALLING = frozenset({"tool_calls", "function_call", "tool_use", "tool_call"})
NATIVE_ENDING_KEY = "native_finish_reason"
"""Key in ``response_metadata``: OpenRouter's, how the provider behind it says that it ended."""
_NATIVELY_WRONG = _FILTERED | _BROKEN_OFF | _MALFORMED | _LENGTH
"""Native words that say more than the gateway's own one; others are not known well enough."""
_WORDS = sorted(_WHOLE | _FILTERED | _BROKEN_OFF | _MALFORMED | _LENGTH, key=len, reverse=True)
_WORD = "|".join(_WORDS)
_JOINED = re.compile(f"(?:{_WORD})(?:{_WORD})+")
_LONGEST = 2_000
"""A stream of chunks that each say the word has it joined as many times; no longer one is read."""

_UNSHOWN = frozenset(
    {
        "redacted_thinking", "server_tool_use", "server_tool_call", "server_tool_result",
        "web_search_call", "file_search_call", "code_interpreter_call", "mcp_call",
        "mcp_list_tools",
    }
)  # fmt: skip
"""What a provider does on its own way to an answer."""
_KEPT_AS = ("tool_calls", "function_call")
_CALL_BLOCKS = frozenset({"tool_use", "tool_call", "function_call", "custom_tool_call"})
_TAGGED_THOUGHTS = re.compile(r"\s*<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
_BLANKS = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))

_PROVIDERS_SAY_IT = frozenset(
    {
        "openai", "azure_openai", "anthropic", "google_genai", "google_vertexai", "mistralai",
        "ollama", "openrouter", "deepseek", "xai", "perplexity", "groq", "fireworks", "together",
    }
)  # fmt: skip
"""Providers of which every complete answer says how it ended: a stream without it was closed
half-way, and the client did not notice."""

_COUNTING = frozenset({"anthropic", "google_genai", "google_vertexai"})
"""Those of them whose streams tell a count before the answer is whole."""


def flaw_of(message: Any) -> ErrorClass | None:
    """What is wrong with an answer that came back without an exception: ``content_filter``,
    ``truncated``, ``server`` (the provider broke off), ``malformed``, ``empty`` or ``stream_cut``;
    None for a whole one."""
    fields, meta = fields_of(message), response_metadata_of(message)
    ending = _ending(meta)
    flaw = None if ending is None else _flaw(ending)
    if flaw is not None:
        return flaw
    if fields.get("invalid_tool_calls") or _calls_nothing(fields):
        return ErrorClass.MALFORMED
    if not says_something(fields):
        refused = mapping(fields.get("additional_kwargs")).get("refusal") or fields.get("refusal")
        return None if refused else ErrorClass.EMPTY
    if ending is None and meta.get("model_provider") in _PROVIDERS_SAY_IT:
        return ErrorClass.STREAM_CUT
    if ending in _CALLING and not _calls(fields):
        return ErrorClass.MALFORMED  # the call was lost on its way
    return None


def counts_on(message: Any) -> bool:
    """Whether the usage that an answer tells is of the answer so far: its provider counts as it
    goes on, and was not heard to the end."""
    meta = response_metadata_of(message)
    return meta.get("model_provider") in _COUNTING and _ending(meta) is None


def _calls_nothing(fields: Mapping[str, Any]) -> bool:
    """Whether one of its tool calls has no name."""
    calls = fields.get("tool_calls")
    return isinstance(calls, list) and any(
        not (mapping(call).get("name") or mapping(mapping(call).get("function")).get("name"))
        for call in calls
    )


def says_something(message: Any) -> bool:
    """Whether an answer has anything for a user: text that is not blank, tool calls, an image,
    sound. Thoughts alone are nothing, nor is what a provider's own tools were asked and gave."""
    fields = fields_of(message)
    return bool(
        fields.get("tool_calls")
        or _shown(text_of(fields))
        or mapping(fields.get("additional_kwargs")).get("audio")
        or any(_is_shown(block.get("type")) for block in other_blocks(fields.get("content")))
    )


def _calls(fields: Mapping[str, Any]) -> bool:
    """Whether an answer has the calls that it ends with, wherever they are kept."""
    extra = mapping(fields.get("additional_kwargs"))
    content = fields.get("content")
    blocks = content if isinstance(content, list | tuple) else ()
    return bool(
        fields.get("tool_calls")
        or any(where.get(name) for where in (extra, fields) for name in _KEPT_AS)
        or any(str(mapping(block).get("type")) in _CALL_BLOCKS for block in blocks)
    )


def _shown(text: str) -> str:
    """The text without thoughts that a server left in it, between tags, and blanks."""
    at = 0
    while (thoughts := _TAGGED_THOUGHTS.match(text, at)) is not None:
        at = thoughts.end()
    text = text[at:]
    if "<think>" not in text:  # several chat templates write the opening tag themselves
        text = text.rpartition("</think>")[2]
    return text.translate(_BLANKS).strip()


def _is_shown(kind: Any) -> bool:
    return kind not in _UNSHOWN and not str(kind).endswith("_tool_result")


def was_cut(message: Any) -> bool:
    """Whether an answer ended early, at its token limit or by a content filter."""
    return flaw_of(message) in CUT


def _ending(meta: Mapping[str, Any]) -> str | None:
    """The provider's word for how it ended, in lower case; None where it said none."""
    status = meta.get("status")
    if status == "incomplete":  # OpenAI's Responses
        return str(mapping(meta.get("incomplete_details")).get("reason") or status).lower()
    for name in ("finish_reason", "stop_reason", "done_reason", "stopReason"):
        word = meta.get(name)
        if word := getattr(word, "value", word):  # an enum in a live message
            told = _once(str(word).lower())
            native = _once(str(meta.get(NATIVE_ENDING_KEY) or "").lower())
            return native if told in _WHOLE and native in _NATIVELY_WRONG else told
    if mapping(meta.get("prompt_feedback")).get("block_reason"):
        return "prohibited_content"
    return str(status).lower() if isinstance(status, str) else None


def _flaw(ending: str) -> ErrorClass | None:
    if ending in _WHOLE:
        return None
    if ending in _FILTERED:
        return ErrorClass.CONTENT_FILTER
    if ending in _BROKEN_OFF:
        return ErrorClass.SERVER
    if ending in _MALFORMED:
        return ErrorClass.MALFORMED
    # A length limit has many names (length, max_tokens, model_length, pause_turn ...), and whoever
    # ends in a way that nobody knows has not said that it was done.
    return ErrorClass.TRUNCATED


def _once(word: str) -> str:
    """One word, where LangChain has joined those of a stream's chunks: ``stopstop``."""
    half = len(word) // 2
    if half > 2 and word[:half] * 2 == word:
        return _once(word[:half])
    if word in _WORDS or len(word) > _LONGEST or not _JOINED.fullmatch(word):
        return word
    # ``stoptool_calls``: whichever says that something is wrong.
    words: list[str] = re.findall(_WORD, word)
    return next((each for each in words if each not in _WHOLE), words[-1])
