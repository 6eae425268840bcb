"""Images, files, recordings and films in a prompt: which they are, and how many tokens they make.

Their base64 is no text. Formulas are those that providers document; what stands behind an id or an
address has a size that nobody here knows.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["image", "audio", "video", "file"]

NEEDS: Mapping[Kind, str] = {
    "image": "vision",
    "audio": "audio",
    "video": "video",
    "file": "files",
}
"""The capability that a card needs for each."""

IMAGE_TOKENS = 1_100
"""A usual image at usual detail."""
IMAGE_BOUND = 48_169
"""The most that any provider counts for one: gpt-4o-mini's 2,833 + 8 tiles of 5,667 tokens."""
UNSIZED_TOKENS = 1_000_000
"""What nobody knows the size of: the largest window that providers offer."""

# The most tokens of one image, by the model's name (OpenAI's, Anthropic's and Google's documents
# on images); whoever is not here may be as dear as the dearest.
_IMAGE_BOUNDS = (
    (re.compile(r"gpt-4o-mini"), IMAGE_BOUND),
    (re.compile(r"gpt-4o|gpt-4\.5|chatgpt-4o|gpt-4-turbo|gpt-4\.1(?!-(mini|nano))"), 1_445),
    (re.compile(r"gpt-4\.1-(mini|nano)|o4-mini"), 3_779),
    (re.compile(r"gpt-5"), 24_600),
    (re.compile(r"(^|[/:])o[13](?!\d)"), 1_275),
    (re.compile(r"claude"), 4_784),
    (re.compile(r"gemini"), 6_000),
)

# Tokens a page (text, and its picture), a second of sound and a second of film: usual, and most.
_PAGE, _PAGE_BOUND = 1_500, 4_800
_SOUND, _SOUND_BOUND = 25, 50
_FILM, _FILM_BOUND = 300, 330
# Bytes of a page, and bytes a second, where nothing says how many there are: usual, and least.
_PAGE_BYTES, _PAGE_BYTES_LEAST = 50_000, 2_000
_SOUND_RATE, _SOUND_RATE_LEAST = 16_000, 750
_FILM_RATE, _FILM_RATE_LEAST = 125_000, 12_500

_TYPES: tuple[tuple[str, Kind], ...] = (
    ("image", "image"),
    ("screenshot", "image"),
    ("audio", "audio"),
    ("video", "video"),
    ("file", "file"),
    ("document", "file"),
    ("pdf", "file"),
)
_NATIVE = frozenset({"inline_data", "inlineData", "file_data", "fileData", "blob"})
"""Google's parts, and a resource out of a tool's result."""
_HOLDS = frozenset({"base64", "data", "file_data", "bytes", "blob"})
_POINTS = frozenset(
    {"url", "image_url", "document_url", "file_url", "audio_url", "video_url", "input_audio"}
)
"""Where an address stands; several servers take base64 there too."""
_LONGEST_URL = 2_000
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{2000,}={0,2}")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+)?[^,]{0,200},")
_PAGE_OBJECT = re.compile(rb"/Type\s{0,8}/Page(?![a-zA-Z])")
_READ_AT_MOST = 8_000_000
"""Characters of base64 that are looked into; beyond them its length alone counts."""


@dataclass(frozen=True, slots=True)
class Medium:
    """One image, file, recording or film: likely and most tokens."""

    kind: Kind
    likely: int
    at_most: int


def image_bound(model_name: str) -> int:
    """The most tokens that a model counts for one image."""
    name = model_name.lower()
    return next((most for pattern, most in _IMAGE_BOUNDS if pattern.search(name)), IMAGE_BOUND)


def medium_of(block: Mapping[str, Any]) -> Medium | None:
    """What a content block is, in any provider's shape; None for text and for what holds blocks."""
    kind = _kind(block)
    if kind is None:
        return None
    if kind == "image":
        return Medium(kind, IMAGE_TOKENS, IMAGE_BOUND)
    mime, data = _data(block)
    if isinstance(data, bytes):
        size, head = len(data), data[:_READ_AT_MOST]
    elif data is not None:
        size, head = len(data) * 3 // 4, None
    else:
        return Medium(kind, _PAGE, UNSIZED_TOKENS)
    if kind == "file" and mime.startswith("text/"):
        return Medium(kind, size // 4, size)
    if head is None:
        head = _decoded(data if kind == "file" else data[:4_000]) if isinstance(data, str) else b""
    if kind == "file":
        pages = len(_PAGE_OBJECT.findall(head))
        if pages:
            return Medium(kind, pages * _PAGE, pages * _PAGE_BOUND)
        return Medium(
            kind,
            _times(size, _PAGE_BYTES, _PAGE),
            _times(size, _PAGE_BYTES_LEAST, _PAGE_BOUND),
        )
    if kind == "audio":
        usual, least = _SOUND_RATE, _SOUND_RATE_LEAST
        if head[:4] == b"RIFF" and head[8:12] == b"WAVE" and len(head) >= 32:
            usual = least = max(1, int.from_bytes(head[28:32], "little"))
        return Medium(kind, _times(size, usual, _SOUND), _times(size, least, _SOUND_BOUND))
    return Medium(
        kind, _times(size, _FILM_RATE, _FILM), _times(size, _FILM_RATE_LEAST, _FILM_BOUND)
    )


def medium_in(text: str) -> Medium | None:
    """What a string holds as a ``data:`` address; None for any other."""
    head = _DATA_URL.match(text)
    if head is None or ";base64" not in head[0]:
        return None
    return medium_of({"type": _by_mime(head[1] or ""), "data": text})


def unknown_medium(text: str) -> Medium:
    """What base64 makes of which nothing says what it is: no more than as a text."""
    pages = _times(len(text) * 3 // 4, _PAGE_BYTES, _PAGE)
    return Medium("file", min(pages, len(text) // 4), len(text))


def _times(size: int, unit: int, tokens: int) -> int:
    return -(-size // unit) * tokens


def _kind(block: Mapping[str, Any]) -> Kind | None:
    name = block.get("type")
    text = name if isinstance(name, str) else ""
    source = block.get("source")
    if isinstance(source, Mapping) and source.get("type") in ("text", "content"):
        return None  # a document whose text stands here
    if text.endswith("_call") and not text.startswith("image"):
        return None  # what a provider's own tool was asked
    if text == "media" or (not text and any(name in block for name in _NATIVE)):
        return _by_mime(_data(block)[0])
    for part, kind in _TYPES:
        if part in text:
            return kind
    if not text:  # Bedrock's: {"image": {"source": ...}}
        for part, kind in _TYPES:
            if isinstance(inner := block.get(part), Mapping) and "source" in inner:
                return kind
    return None


def _by_mime(mime: str) -> Kind:
    head = mime.partition("/")[0]
    return head if head in ("image", "audio", "video") else "file"  # type: ignore[return-value]


def _data(block: Mapping[str, Any]) -> tuple[str, str | bytes | None]:
    """The media type, and the base64 or bytes; None where the block only points to them."""
    mime = ""
    found: str | bytes | None = None
    for key, value in _leaves(block):
        if key in ("mime_type", "media_type", "mimeType") and isinstance(value, str):
            mime = mime or value
        elif isinstance(value, bytes):
            found = value
        elif isinstance(value, str) and (key in _HOLDS or key in _POINTS):
            head = _DATA_URL.match(value)
            if head is not None:
                mime, found = mime or head[1] or "", value[head.end() :]
            elif key in _HOLDS or (len(value) > _LONGEST_URL and is_base64(value)):
                found = value
    return mime, found


def is_base64(text: str) -> bool:
    """Whether a long text is no text."""
    return _BASE64.fullmatch(text) is not None


def _leaves(value: Mapping[str, Any], depth: int = 4) -> Iterator[tuple[str, Any]]:
    for key, inner in value.items():
        if isinstance(inner, Mapping) and depth:
            yield from _leaves(inner, depth - 1)
        else:
            yield str(key), inner


def _decoded(text: str) -> bytes:
    part = text[: _READ_AT_MOST - _READ_AT_MOST % 4]
    try:
        return base64.b64decode(part[: len(part) - len(part) % 4])
    except (binascii.Error, ValueError):
        return b""
