"""What a provider's own tools did on the way to an answer, and a second model that was asked:
units that are billed beside the answering model's tokens (:mod:`xrouter_lg.pool.fees`)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from xrouter_lg.said.message import mapping
from xrouter_lg.types import TokenUsage

TOOL_USAGE_KEY = "tool_usage"
"""Key in ``response_metadata``: OpenAI's own count of what its tools did, which LangChain drops."""
HOSTED_CALLS_KEY = "hosted_calls"
"""Key in ``response_metadata``: calls of a provider's own tools that LangChain drops."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})
_FALLBACK = "fallback_message"
_SEARCHED = ("num_search_queries", "num_sources_used")
_XAIS = ("server_side_tool_usage_details", "server_side_tool_usage")
_TELLING = frozenset(
    {
        *(*_SEARCHED, *_XAIS, "server_tool_use", "tool_calls_details"),
        *("prompt_audio_seconds", "iterations"),
    }
)
"""Fields of a count that say more than tokens: most answers have none of them."""
_XAI = {
    "web_search": "web_searches",
    "x_search": "social_searches",
    "code_interpreter": "code_executions",
    "code_execution": "code_executions",
    "file_search": "storage_searches",
    "document_search": "storage_searches",
    "attachment_search": "storage_searches",
    "collections_search": "storage_searches",
}
"""xAI's counts, which end in ``_calls``."""
_CODE = frozenset(
    {"code_execution", "bash_code_execution", "text_editor_code_execution", "code_interpreter"}
)
_CALLS = frozenset({"server_tool_use", "server_tool_call"})
_BY_NAME = {"web_search": "web_searches", "file_search": "storage_searches"}
_PROMPT_WIDE = re.compile(r"(?:models/)?gemini-[12]\b")
"""Gemini's models of which a grounded prompt is billed once, however often they searched."""

_PICTURE_TOKENS = {
    "low": (272, 408, 408),
    "medium": (1_056, 1_584, 2_112),
    "high": (7_024, 7_024, 12_329),
}
"""Tokens of a picture by its quality: of up to 1024 x 1024, of up to 1536 x 1024, and larger: the
most that OpenAI's image models are known to take. One of unknown quality is taken for the best."""
_PIXELS = (1_048_576, 1_572_864)
_PARTIAL_TOKENS = 100
_DIGITS = 15
"""Of the largest number of units that anybody may bill."""


def hosted_units(
    content: Any, extra: Mapping[str, Any], meta: Mapping[str, Any], counts: Iterable[Any]
) -> dict[str, int]:
    """Units of an answer by kind: from what the provider says of them (``counts`` are its own), or
    else from what its answer shows."""
    blocks = [*_blocks(content), *_blocks(extra.get("tool_outputs"))]
    shown = _shown([*blocks, *_blocks(meta.get(HOSTED_CALLS_KEY))], meta)
    found = {**shown, **told_units(counts, meta)}
    return {kind: n for kind, n in found.items() if n}


def told_units(counts: Iterable[Any], meta: Mapping[str, Any] = _NOTHING) -> dict[str, int]:
    """Units of an answer that its provider has counted itself."""
    found: Counter[str] = Counter()
    searches = 0
    for count in map(mapping, (meta, *counts)):
        if _TELLING.isdisjoint(count):
            continue
        searches = max([searches, *(number(count.get(name)) for name in _SEARCHED)])
        made = mapping(count.get("server_tool_use")).get("web_search_requests")
        perplexitys = mapping(mapping(count.get("tool_calls_details")).get("web_search"))
        searches = max(searches, number(made), number(perplexitys.get("invocation")))
        for names in _XAIS:
            for name, n in mapping(count.get(names)).items():
                plain = str(name).lower().removeprefix("server_side_tool_").removesuffix("_calls")
                if plain in _XAI:
                    found[_XAI[plain]] = max(found[_XAI[plain]], number(n))
        if seconds := number(count.get("prompt_audio_seconds")):  # Mistral's
            found["input_audio_seconds"] = seconds
        _second_model(count.get("iterations"), found)
    if used := mapping(meta.get(TOOL_USAGE_KEY)):
        searches = max(searches, number(mapping(used.get("web_search")).get("num_requests")))
        found.update(_pictures(mapping(used.get("image_gen"))))
    if searches:
        found["web_searches"] = searches
    return dict(found)


def _pictures(count: Mapping[str, Any]) -> dict[str, int]:
    ins, outs = number(count.get("input_tokens")), number(count.get("output_tokens"))
    if not outs:
        return {}
    text = min(ins, number(mapping(count.get("input_tokens_details")).get("text_tokens")))
    return {
        "image_tool_text_tokens": text,
        "image_tool_input_tokens": ins - text,
        "image_tool_output_tokens": outs,
    }


def fallback_model(iterations: Any) -> str | None:
    """The model that has answered where the one that was asked had declined, as Anthropic says."""
    listed = iterations if isinstance(iterations, list | tuple) else ()
    named = (each.get("model") for each in map(mapping, listed) if each.get("type") == _FALLBACK)
    return next((name for name in named if isinstance(name, str) and name), None)


def _second_model(iterations: Any, found: Counter[str]) -> None:
    """Anthropic's advisor, and a model that has declined amid its answer for another to go on:
    their tokens stand in no total."""
    listed = iterations if isinstance(iterations, list | tuple) else ()
    answered = fallback_model(listed)
    for each in map(mapping, listed):
        named, kind = each.get("model"), each.get("type")
        declined = kind == "message" and answered is not None and named not in (None, answered)
        if kind != "advisor_message" and not (declined and number(each.get("output_tokens")) > 1):
            continue  # whoever declines before it has said anything is not billed
        model = str(named or "").replace(" ", "")
        for unit, name in (
            ("other_input_tokens", "input_tokens"),
            ("other_cached_tokens", "cache_read_input_tokens"),
            ("other_cache_write_tokens", "cache_creation_input_tokens"),
            ("other_output_tokens", "output_tokens"),
        ):
            if n := number(each.get(name)):
                found[f"{unit} {model}".strip()] += n


def _shown(blocks: Iterable[Mapping[str, Any]], meta: Mapping[str, Any]) -> dict[str, int]:
    found: Counter[str] = Counter()
    containers: set[str] = set()
    anthropic = meta.get("model_provider") == "anthropic"
    for block in blocks:
        kind, name = block.get("type"), block.get("name")
        extras = mapping(block.get("extras"))
        anthropic = anthropic or kind == "server_tool_use"
        if kind == "file_search_call":
            found["storage_searches"] += 1
        elif kind in ("web_search", "web_search_call"):
            # Reading a page that was found is none that is billed.
            found["web_searches"] += _is_search(block.get("action"))
        elif kind in _CALLS and name in _BY_NAME:
            found[_BY_NAME[name]] += _is_search(block.get("args"))
        elif kind in ("code_interpreter_call", "shell_call") or (kind in _CALLS and name in _CODE):
            told = block.get("container_id") or extras.get("container_id")
            told = told or mapping(block.get("environment")).get("container_id")
            if kind != "shell_call" or told:  # one without runs at the app's
                containers.add(str(told or ""))
        elif kind == "image_generation_call" or (kind == "image" and _is_made(block)):
            found["image_tool_output_tokens"] += _picture_tokens({**extras, **block})
    if containers:
        found["code_executions_5m" if anthropic else "code_executions"] = len(containers)
    grounded = mapping(meta.get("grounding_metadata"))  # Gemini's
    queries = grounded.get("web_search_queries")
    asked = len(queries) if isinstance(queries, list | tuple) else 0
    maps = any("maps" in mapping(chunk) for chunk in _blocks(grounded.get("grounding_chunks")))
    if asked or maps:
        named = str(meta.get("model_name") or "")
        found["web_searches"] += 1 if _PROMPT_WIDE.match(named) else max(asked, int(maps))
    return dict(found)


def _is_search(action: Any) -> bool:
    return bool(mapping(action).get("type", "search") == "search")


def _is_made(block: Mapping[str, Any]) -> bool:
    """A picture by OpenAI's tool, in LangChain's own form."""
    return str(block.get("id") or "").startswith("ig_")


def _picture_tokens(made: Mapping[str, Any]) -> int:
    if made.get("status") == "failed":
        return 0
    return picture_tokens(made.get("quality"), made.get("size"))


def picture_tokens(quality: Any, size: Any, partial: Any = 0) -> int:
    """The most output tokens of a picture of OpenAI's image models, by what was asked for."""
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", str(size))
    pixels = int(sides[1]) * int(sides[2]) if sides else 2 * _PIXELS[1]
    if not sides and size is None:
        pixels = _PIXELS[1]  # what a model chooses by itself is one of its usual sizes
    by_size = _PICTURE_TOKENS.get(str(quality), _PICTURE_TOKENS["high"])
    return by_size[sum(pixels > most for most in _PIXELS)] + _PARTIAL_TOKENS * number(partial)


def as_asked(usage: TokenUsage, tools: Iterable[Mapping[str, Any]]) -> TokenUsage:
    """The usage with what only the request says of its units: how large a container was, which
    model makes the pictures, what goes free of charge with another tool."""
    kinds = dict(usage.kinds)
    for tool in tools:
        kind = str(tool.get("type") or "")
        if kind in ("code_interpreter", "shell") and "code_executions" in kinds:
            held = mapping(tool.get("container") or tool.get("environment"))
            unit = f"code_executions_{held.get('memory_limit') or '1g'}"
            if unit in ("code_executions_4g", "code_executions_16g", "code_executions_64g"):
                kinds[unit] = kinds.pop("code_executions")
        elif kind == "image_generation" and (model := tool.get("model")):
            for unit in ("image_tool_text", "image_tool_input", "image_tool_output"):
                if n := kinds.pop(f"{unit}_tokens", 0):
                    kinds[f"{unit}_tokens {str(model).replace(' ', '')}"] = n
        elif re.fullmatch(r"web_(?:search|fetch)_\d{8}", kind) and kind[-8:] >= "20260209":
            kinds.pop("code_executions_5m", None)  # Anthropic's, which filter what was found
    return usage if kinds == usage.kinds else _with(usage, kinds)


def _with(usage: TokenUsage, kinds: Mapping[str, int]) -> TokenUsage:
    return TokenUsage(
        usage.input_tokens,
        usage.output_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens,
        usage.reasoning_tokens,
        kinds,
        usage.unknown,
    )


def _blocks(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, list | tuple):
        yield from (block for block in value if isinstance(block, Mapping))


def number(value: Any) -> int:
    """A number of units; 0 for what is none."""
    if isinstance(value, str) and value.isdecimal() and len(value) <= _DIGITS:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e15:
        return 0
    return int(value)
