"""Weights from the Hugging Face hub: a quick reachability check, then a resumable download."""

from __future__ import annotations

import os
import threading

import httpx

from integrations.errors import WeightsUnavailableError

from .cache import PartialFile
from .catalogue import HubFile
from .progress import Advance

_PROBE_DEADLINE_S = 4.0
_TIMEOUT = httpx.Timeout(30.0, connect=3.0)
_TRIES = 3


def hub_url(file: HubFile) -> str:
    """The file's address; ``HF_ENDPOINT`` selects a mirror, as in huggingface_hub."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    return f"{endpoint}/{file.repo}/resolve/{file.revision}/{file.filename}"


def check_reachable(file: HubFile) -> None:
    """Return when the hub offers ``file``; takes a few seconds at most.

    Raises:
        WeightsUnavailableError: offline by choice, unreachable, or the hub refuses the file.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}:
        raise WeightsUnavailableError("HF_HUB_OFFLINE is set, so the hub is not asked")
    outcome: list[httpx.Response | Exception] = []

    def probe() -> None:
        try:
            outcome.append(httpx.head(hub_url(file), timeout=_PROBE_DEADLINE_S))
        except Exception as error:  # whatever it is, the caller's thread has to say so
            outcome.append(error)

    # A thread, because no timeout of httpx covers a name lookup that hangs.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(_PROBE_DEADLINE_S)
    if not outcome:
        raise WeightsUnavailableError(
            f"{hub_url(file)} did not answer within {_PROBE_DEADLINE_S:g} s"
        )
    answer = outcome[0]
    if isinstance(answer, Exception):
        raise WeightsUnavailableError(f"{hub_url(file)} is unreachable: {answer}")
    if answer.status_code >= 400:
        raise WeightsUnavailableError(f"{hub_url(file)} answered {answer.status_code}")


def download(file: HubFile, partial: PartialFile, size_bytes: int, advance: Advance) -> None:
    """Append the rest of ``file`` to ``partial``, continuing by HTTP Range.

    Raises:
        WeightsUnavailableError: the connection failed three times, or the hub refused.
    """
    for attempt in range(1, _TRIES + 1):
        try:
            _append(file, partial, size_bytes, advance)
        except httpx.HTTPError as error:
            if attempt == _TRIES:
                raise WeightsUnavailableError(
                    f"{hub_url(file)} broke off {_TRIES} times, last with {error!r}; "
                    f"{partial.size:,} of {size_bytes:,} bytes are kept, run it again"
                ) from error
        if partial.size == size_bytes:
            return
    raise WeightsUnavailableError(
        f"{hub_url(file)} ended after {partial.size:,} of {size_bytes:,} bytes; run it again"
    )


def _append(file: HubFile, partial: PartialFile, size_bytes: int, advance: Advance) -> None:
    if partial.size >= size_bytes:
        # Complete but unverified bytes are for the caller's digest to judge.
        partial.rewind(size_bytes)
        return
    headers = {"Accept-Encoding": "identity"}
    if partial.size:
        headers["Range"] = f"bytes={partial.size}-"
    with httpx.stream(
        "GET", hub_url(file), headers=headers, timeout=_TIMEOUT, follow_redirects=True
    ) as response:
        if response.status_code >= 400:
            raise WeightsUnavailableError(f"{hub_url(file)} answered {response.status_code}")
        if partial.size and response.status_code != 206:
            partial.rewind(0)
        # As they come: a chosen block size would buffer, and lose the buffer when it breaks off.
        for block in response.iter_raw():
            if partial.size + len(block) > size_bytes:
                raise WeightsUnavailableError(
                    f"{hub_url(file)} sends more than the pinned {size_bytes:,} bytes; "
                    "it is not the file the catalogue names"
                )
            partial.write(block)
            advance(partial.size)
