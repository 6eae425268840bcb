"""What a model thought stays with it: signed thoughts and ids never reach another one.

Providers sign what a model thinks (Anthropic's ``thinking``, the ``reasoning`` items of OpenAI's
Responses, Gemini's thought signatures) and give their answers ids (``resp_``, ``msg_``). The model
that made them wants them back; any other refuses the whole request, or reads what was not said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.served import is_of
from xrouter_lg.said import served_model
from xrouter_lg.tracing.runs.extract import RECORD_KEY

_SAID = frozenset(
    {"text", "refusal", "image", "image_url", "audio", "input_audio", "video", "file", "media"}
)
"""Blocks of what was said. The others are thoughts, or calls and results of a provider's own
tools; the app's tool calls stand in ``tool_calls``."""

_MARKS = frozenset(
    {
        *("id", "index", "extras", "annotations", "citations"),
        *("signature", "thought_signature", "encrypted_content"),
    }
)
"""Keys by which a provider knows its own block again."""

_ANSWER_IDS = ("resp_", "msg_", "rs_")

_MAKERS = {
    "thinking": "anthropic",
    "redacted_thinking": "anthropic",
    "reasoning": "openai",
    "reasoning_content": "bedrock_converse",
    "__gemini_function_call_thought_signatures__": "google_genai",
    "reasoning_details": "openrouter",
}
"""Whose a thought is, by its block or its place in ``additional_kwargs``, where nothing else says
who had it."""


def without_foreign_thoughts(
    messages: Sequence[BaseMessage], card: ModelCard
) -> Sequence[BaseMessage]:
    """The messages with what other models than the card's had for themselves taken out: thoughts,
    signatures, blocks of their providers' own tools, ids of answers. What was said and which of
    the app's tools were called stays. Messages without any of these are not touched."""
    found = [
        _as_said(message) if isinstance(message, AIMessage) and _is_foreign(message, card) else None
        for message in messages
    ]
    if not any(found):
        return messages
    return [new or old for new, old in zip(found, messages, strict=True)]


def _is_foreign(message: AIMessage, card: ModelCard) -> bool:
    """Whether a message is known to be another model's than the card's."""
    meta = message.response_metadata
    record = meta.get(RECORD_KEY)
    if isinstance(record, Mapping) and record.get("route"):
        asked = asked_model(record, card.name)
        return record["route"] != card.name or asked not in (None, card.model_name)
    provider, own = meta.get("model_provider"), card.maker
    if isinstance(provider, str) and own is not None and _family(provider) != _family(own):
        return True
    served = served_model(message)
    if served is not None:
        return not is_of(card, served)
    if provider is None and own is not None:
        blocks = message.content if isinstance(message.content, list) else []
        kinds = [str(block.get("type")) for block in blocks if isinstance(block, Mapping)]
        makers = [_MAKERS[kind] for kind in (*message.additional_kwargs, *kinds) if kind in _MAKERS]
        return bool(makers) and _family(makers[0]) != _family(own)
    return False


def _family(provider: str) -> str:
    """Azure's OpenAI and Anthropic on a cloud speak as their makers do."""
    for maker in ("openai", "anthropic", "google", "bedrock"):
        if maker in provider:
            return maker
    return "openai" if provider == "azure" else provider


def has_thoughts(message: AIMessage) -> bool:
    """Whether a message holds what only its own model may read."""
    return _as_said(message) is not None


def asked_model(record: Mapping[str, Any], card: str | None) -> str | None:
    """The model that stood behind the card when the record was made."""
    if isinstance(kept := record.get("model"), str):
        return kept
    for charge in reversed(record.get("charges") or ()):
        if charge.get("kind") == "worker" and charge.get("card") == card:
            model = charge.get("model")
            return model if isinstance(model, str) else None
    return None


def _as_said(message: AIMessage) -> AIMessage | None:
    """The message as anybody may read it; None where it is that already."""
    content = _content(message.content)
    extra = message.additional_kwargs
    kept = {} if message.tool_calls else _legacy_calls(extra)
    meta = message.response_metadata
    plain_meta = {
        key: value
        for key, value in meta.items()
        # Content in LangChain's own format is turned into the provider's by this mark.
        if key != "output_version" and not (key == "id" and _is_answer_id(value))
    }
    own_id = _is_answer_id(message.id)
    telling = [value for key, value in extra.items() if key not in kept and value]
    if content is message.content and not telling and len(plain_meta) == len(meta) and not own_id:
        return None
    return AIMessage(
        content=content,
        additional_kwargs=kept,
        response_metadata=plain_meta,
        tool_calls=[
            {"name": call["name"], "args": call["args"], "id": call["id"], "type": "tool_call"}
            for call in message.tool_calls
        ],
        invalid_tool_calls=message.invalid_tool_calls,
        usage_metadata=message.usage_metadata,
        name=message.name,
        id=None if own_id else message.id,
    )


def _content(content: Any) -> Any:
    """What was said; text alone as one string, which every server takes."""
    if isinstance(content, str):
        return content
    blocks = [block for item in content if (block := _block(item)) is not None]
    if blocks == content:
        return content
    if all(set(block) == {"type", "text"} for block in blocks):
        return "".join(block["text"] for block in blocks)
    return blocks


def _block(item: Any) -> dict[str, Any] | None:
    if isinstance(item, str):
        return {"type": "text", "text": item}
    if not isinstance(item, Mapping) or str(item.get("type", "text")) not in _SAID:
        return None
    if item.get("type") == "refusal":
        return {"type": "text", "text": str(item.get("refusal") or "")}
    return {key: value for key, value in item.items() if key not in _MARKS}


def _legacy_calls(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {name: extra[name] for name in ("tool_calls", "function_call") if extra.get(name)}


def _is_answer_id(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(_ANSWER_IDS)
