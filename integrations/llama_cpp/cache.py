"""Where weights live on disk, and how a file there becomes trusted.

A file counts as verified when a small stamp beside it names its sha256, size and modification
time; anything that changed since is hashed again. One lock per file keeps two processes from
writing the same download.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from integrations.errors import WeightsUnavailableError

_BLOCK = 1 << 22
_LOCK_WAIT_S = 3600.0


def cache_root() -> Path:
    """The package's cache folder.

    ``XROUTER_CACHE`` wins; else ``$XDG_CACHE_HOME/xrouter_lg``; else ``~/.cache/xrouter_lg``.
    """
    if override := os.environ.get("XROUTER_CACHE"):
        return Path(override).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "xrouter_lg"


def weights_dir(cache_dir: Path | None = None) -> Path:
    """The folder of the GGUF files; ``cache_dir`` replaces :func:`cache_root` when given."""
    return (cache_dir if cache_dir is not None else cache_root()) / "weights"


def write_json_atomically(path: Path, value: Any) -> None:
    """Write ``value`` to a temporary file beside ``path`` and rename it over ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=2, sort_keys=True)
            file.write("\n")
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def is_verified(path: Path, *, size_bytes: int, sha256: str) -> bool:
    """Whether ``path`` holds exactly the pinned bytes; hashes only what changed since last time."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return False
    if stat.st_size != size_bytes:
        return False
    stamp = {"sha256": sha256, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    with contextlib.suppress(OSError, ValueError):
        if json.loads(_stamp_path(path).read_text(encoding="utf-8")) == stamp:
            return True
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return False
    write_json_atomically(_stamp_path(path), stamp)
    return True


def discard(path: Path) -> None:
    """Remove a file and its stamp."""
    path.unlink(missing_ok=True)
    _stamp_path(path).unlink(missing_ok=True)


def _stamp_path(path: Path) -> Path:
    return path.with_name(path.name + ".verified.json")


class PartialFile:
    """A download in progress: appends, knows its digest so far, survives the process.

    The bytes stay in ``PATH.part`` until the caller renames them, so that the next attempt,
    from whichever source, continues after them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._file = path.open("r+b")
        self._hash = hashlib.sha256()
        self.size = 0
        while block := self._file.read(_BLOCK):
            self._hash.update(block)
            self.size += len(block)

    def write(self, block: bytes) -> None:
        """Append ``block``."""
        self._file.write(block)
        self._hash.update(block)
        self.size += len(block)

    def rewind(self, size: int) -> None:
        """Drop everything after the first ``size`` bytes and hash again what is left."""
        self._file.truncate(size)
        self._file.seek(0)
        self._hash = hashlib.sha256()
        self.size = 0
        while block := self._file.read(_BLOCK):
            self._hash.update(block)
            self.size += len(block)

    def slice_sha256(self, start: int, length: int) -> str:
        """Digest of ``length`` bytes from ``start``."""
        digest = hashlib.sha256()
        self._file.flush()
        self._file.seek(start)
        while length and (block := self._file.read(min(_BLOCK, length))):
            digest.update(block)
            length -= len(block)
        self._file.seek(0, os.SEEK_END)
        return digest.hexdigest()

    def sha256(self) -> str:
        """Digest of the bytes so far."""
        return self._hash.hexdigest()

    def close(self) -> None:
        """Flush to disk and close; the bytes stay."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file ``PATH.lock``; a second process waits for the first one's download.

    Raises:
        WeightsUnavailableError: the lock was not free within an hour.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock_path = path.with_name(path.name + ".lock")
    with lock_path.open("a+b") as lock:
        deadline = time.monotonic() + _LOCK_WAIT_S
        while not _try_lock(lock.fileno()):
            if time.monotonic() > deadline:
                raise WeightsUnavailableError(
                    f"another process has held {str(lock_path)!r} for an hour; "
                    "end that download or remove the lock file"
                )
            time.sleep(0.2)
        # Closing the file releases the lock, also when the process is killed.
        yield


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
