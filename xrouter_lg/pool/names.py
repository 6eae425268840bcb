"""Names of published models: one model goes by many."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Dated snapshots (-2025-04-14, -20250805, @20250805, -0709, -001), "-latest", Bedrock's versions
# and OpenRouter's variant.
_SNAPSHOT = re.compile(
    r"(?:[-@](?:\d{4}-\d{2}-\d{2}|\d{8}|\d{6}|\d{4}|\d{3}|latest)|-v\d+(?::\d+)?|-\d:\d|:[a-z]+)+$"
)
_PREVIEW = re.compile(r"-preview(?:-\d\d)?$")
_LONGEST = 200
"""Characters of a name that a provider may have thought of."""
_BEFORE_NAME = re.compile(
    r"^(?:[a-z-]{2,6}\.)?"
    r"(?:anthropic|amazon|meta|mistral|cohere|deepseek|openai|qwen|google|minimax|moonshot|nvidia)\."
)


def same_model(one: str, other: str) -> bool:
    """Whether two names are of one model: a vendor in front and a snapshot's date behind are no
    part of it."""
    return one == other or plain_name(one) == plain_name(other)


def bare_name(name: str) -> str:
    """A model's name without who offers it."""
    name = name.lower().rpartition("/")[2].removesuffix(".gguf")
    return _BEFORE_NAME.sub("", name)


def plain_name(name: str) -> str:
    """A model's name without who offers it and without a snapshot's date."""
    name = bare_name(name)
    return name if len(name) > _LONGEST else _SNAPSHOT.sub("", name) or name


def usual_names(name: str) -> Iterator[str]:
    """Names under which a list may know a model that it does not know by its own: Google's without
    what it puts in front, a gateway's without the variant, a snapshot's without its date."""
    name = name.removeprefix("models/")[:_LONGEST]
    yield name
    yield name.replace("@", "-")
    for _ in range(2):  # a preview's date, and that it is a preview
        name = _PREVIEW.sub("", _SNAPSHOT.sub("", name))
        yield name
