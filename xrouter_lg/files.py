"""Files and folders that are whole or not there, also after a crash."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import socket
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from xrouter_lg.extras import need

_STALE_S = 86_400
"""Age of a temporary file that nobody writes any more, whichever machine it was."""


@contextlib.contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A free name beside ``target``. The file or folder that is written there is flushed to disk
    and takes the target's place when the block ends; when it raises, it is gone and the target is
    as it was. What a killed process left of an earlier try at the same target is removed.

    Raises:
        OSError: the disk is full, the folder is missing or can't be written.
    """
    _sweep(target)
    mark = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary = target.with_name(f".{target.name}.{mark}.tmp")
    try:
        yield temporary
        for path in (temporary, *temporary.rglob("*")) if temporary.is_dir() else (temporary,):
            _flush(path)
        if temporary.is_dir() and target.exists():
            _swap(temporary, target)
        else:
            os.replace(temporary, target)
        _flush(target.parent)
    finally:
        _remove(temporary)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file, and the folders above it: a reader sees all of it or what was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, data: Any, *, indent: int | None = None, sort: bool = False) -> None:
    """Write JSON like :func:`write_bytes`.

    Raises:
        TypeError: something in it has no JSON form; nothing is written.
    """
    text = json.dumps(data, indent=indent, sort_keys=sort)
    write_bytes(path, f"{text}\n".encode())


def _swap(folder: Path, target: Path) -> None:
    """Put a folder in the place of a full one."""
    if _exchange(folder, target):
        return  # what was there before is removed as the temporary one
    # Where the system can't exchange two names there is no folder for a moment.
    old = folder.with_suffix(".old.tmp")
    target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        old.rename(target)
        raise
    _remove(old)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the system or the file system can't."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


def _sweep(target: Path) -> None:
    """Remove what dead processes left beside ``target``."""
    start = f".{target.name}."
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            if path.name.startswith(start) and path.suffix == ".tmp" and _left(path, start):
                _remove(path)


def _left(path: Path, start: str) -> bool:
    machine, _, rest = path.name[len(start) :].partition("-")
    process = rest.partition("-")[0]
    if machine == _machine() and process.isdigit() and not is_running(int(process)):
        return True
    return time.time() - path.stat().st_mtime > _STALE_S


def is_running(process: int) -> bool:
    """Whether a process of this machine still runs; where that can't be told, it does."""
    if os.name == "nt":
        return True  # a signal of 0 would end it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def reading(told: Callable[[str], Exception], *also: type[Exception]) -> Iterator[None]:
    """Around what reads a table's file. Whatever polars raises of a damaged one, and ``also``,
    becomes the error that ``told`` makes of its first line: a panic of its threads too, which is
    no ``Exception`` and would end the process.

    Raises:
        MissingExtraError: polars is not installed.
    """
    raised = need("polars", "a table's file").exceptions
    try:
        yield
    except (raised.PolarsError, raised.PanicException, *also) as error:
        raise told(str(error).strip().partition("\n")[0][:300]) from error


def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
