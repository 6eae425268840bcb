"""Files and folders that are whole or not there, also after a crash."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A free name beside ``target``. The file or folder that is written there is flushed to disk
    and takes the target's place when the block ends; when it raises, it is gone and the target is
    as it was.

    Raises:
        OSError: the disk is full, the folder is missing or can't be written.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
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
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


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
    # No system call puts a folder in the place of a full one; for a moment there is none.
    old = folder.with_suffix(".old")
    target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
