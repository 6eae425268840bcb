"""What a content block is, in any provider's shape, and how many tokens it makes."""

from __future__ import annotations

import base64
import io
import wave
from typing import Any

import pytest

from xrouter_lg.calls.media import UNSIZED_TOKENS, medium_of

PDF = base64.b64encode(
    b"%PDF-1.4" + b"1 0 obj << /Type /Page >> endobj\n" * 3 + b"/Type /Pages"
).decode()
BLOB = base64.b64encode(bytes(700_000)).decode()


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}, "image"),
        ({"type": "image", "source": {"media_type": "image/png", "data": "AA"}}, "image"),
        ({"type": "input_image", "image_url": "https://x.org/a.png"}, "image"),
        ({"type": "media", "mime_type": "image/png", "data": "AA"}, "image"),
        ({"image": {"format": "png", "source": {"bytes": b"AA"}}}, "image"),
        ({"type": "file", "base64": BLOB, "mime_type": "application/pdf"}, "file"),
        ({"type": "file", "file": {"file_data": "data:application/pdf;base64," + BLOB}}, "file"),
        ({"type": "document", "source": {"type": "base64", "data": BLOB}}, "file"),
        ({"type": "input_file", "file_id": "file-1"}, "file"),
        ({"type": "media", "mime_type": "application/pdf", "data": BLOB}, "file"),
        ({"type": "input_audio", "input_audio": {"data": BLOB, "format": "wav"}}, "audio"),
        ({"type": "audio", "base64": BLOB, "mime_type": "audio/wav"}, "audio"),
        ({"type": "video_url", "video_url": {"url": "https://x.org/v.mp4"}}, "video"),
        ({"type": "media", "mime_type": "video/mp4", "data": BLOB}, "video"),
        ({"inlineData": {"mimeType": "image/png", "data": BLOB}}, "image"),
        ({"inlineData": {"mimeType": "application/pdf", "data": BLOB}}, "file"),
        ({"fileData": {"mimeType": "audio/mp3", "fileUri": "https://x.org/a"}}, "audio"),
        ({"file_data": {"mime_type": "video/mp4", "file_uri": "https://x.org/a"}}, "video"),
        ({"type": "document_url", "document_url": "data:application/pdf;base64," + BLOB}, "file"),
        ({"type": "file_url", "file_url": {"url": BLOB}}, "file"),
        ({"type": "input_audio", "input_audio": BLOB}, "audio"),
    ],
)  # fmt: skip
def test_every_providers_shape_is_known(block: dict[str, Any], kind: str) -> None:
    found = medium_of(block)
    assert found is not None
    assert found.kind == kind
    assert 0 < found.likely <= 25_000
    assert found.likely <= found.at_most


@pytest.mark.parametrize(
    "block",
    [
        {"type": "document_url", "document_url": "data:application/pdf;base64," + BLOB},
        {"type": "file_url", "file_url": {"url": BLOB}},
        {"type": "input_audio", "input_audio": BLOB},
        {"inlineData": {"mimeType": "application/pdf", "data": BLOB}},
    ],
    ids=["document_url", "file_url", "input_audio", "inlineData"],
)
def test_what_stands_where_others_have_an_address_has_its_size(block: dict[str, Any]) -> None:
    found = medium_of(block)
    assert found is not None
    assert found.likely == {"file": 22_500, "audio": 1_100}[found.kind]
    assert found.at_most != UNSIZED_TOKENS


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": "an image"},
        {"type": "tool_result", "content": []},
        {"type": "document", "source": {"type": "text", "data": "plain"}},
        {"type": "thinking", "thinking": "file"},
    ],
)
def test_text_is_no_medium(block: dict[str, Any]) -> None:
    assert medium_of(block) is None


def test_the_pages_of_a_pdf_are_counted() -> None:
    found = medium_of({"type": "file", "base64": PDF, "mime_type": "application/pdf"})
    assert found is not None
    assert (found.likely, found.at_most) == (3 * 1_500, 3 * 4_800)


def test_the_seconds_of_a_recording_are_read() -> None:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setparams((1, 2, 8_000, 0, "NONE", ""))
        written.writeframes(bytes(2 * 8_000 * 10))
    data = base64.b64encode(file.getvalue()).decode()
    found = medium_of({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}})
    assert found is not None
    assert (found.likely, found.at_most) == (11 * 25, 11 * 50)  # the header begins a second more


def test_a_text_file_counts_as_its_text() -> None:
    data = base64.b64encode(b"word" * 1_000).decode()
    found = medium_of({"type": "file", "base64": data, "mime_type": "text/plain"})
    assert found is not None
    assert found.likely == pytest.approx(1_000, abs=2)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "file", "file": {"file_id": "file-abc"}},
        {"type": "audio", "url": "https://x.org/a.mp3"},
        {"type": "video_url", "video_url": {"url": "https://x.org/v.mp4"}},
    ],
)
def test_what_is_only_pointed_to_may_be_as_large_as_any(block: dict[str, Any]) -> None:
    found = medium_of(block)
    assert found is not None
    assert found.at_most == UNSIZED_TOKENS


@pytest.mark.parametrize("data", ["!!!", "A", "=", "\ud800"])
def test_what_is_no_base64_raises_nothing(data: str) -> None:
    for kind in ("file", "audio", "video"):
        assert medium_of({"type": kind, "base64": data}) is not None
