"""Rows that don't fit into memory: Parquet pieces in a folder that goes away afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from xrouter_lg.files import is_running
from xrouter_lg.json_text import encodable_value

PIECE = 2000
"""Rows held in memory, and in one file."""


class Rows:
    """Rows of one kind, a file per :data:`PIECE` of them."""

    def __init__(self, folder: Path, name: str, columns: Mapping[str, pl.DataType]) -> None:
        self.columns = dict(columns)
        self.count = 0
        self._folder, self._name = folder, name
        self._waiting: list[Mapping[str, Any]] = []
        self._files: list[Path] = []

    def add(self, row: Mapping[str, Any]) -> None:
        self._waiting.append(encodable_value(dict(row)))
        self.count += 1
        if len(self._waiting) == PIECE:
            self._write(self._waiting)
            self._waiting = []

    def add_piece(self, frame: pl.DataFrame) -> None:
        """A whole piece at once."""
        self.count += frame.height
        self._write(frame)

    def files(self) -> list[Path]:
        """The pieces in their order; at least one, which may be empty."""
        if self._waiting or not self._files:
            self._write(self._waiting)
            self._waiting = []
        return list(self._files)

    def frame(self) -> pl.LazyFrame:
        """All rows in their order."""
        return pl.scan_parquet(self.files())

    def _write(self, rows: pl.DataFrame | list[Mapping[str, Any]]) -> None:
        path = self._folder / f"{self._name}-{len(self._files):06}.parquet"
        pl.DataFrame(rows, self.columns).write_parquet(path, compression="lz4")
        self._files.append(path)


@contextmanager
def spill_folder(target: Path) -> Iterator[Path]:
    """A folder beside ``target`` (same disk) while it is built; those of killed builds go."""
    target.parent.mkdir(parents=True, exist_ok=True)
    stem = f".{target.name}-build-"
    for old in target.parent.glob(f"{stem}*"):
        owner = old.name.removeprefix(stem).partition("-")[0]
        if not (owner.isdigit() and is_running(int(owner))):
            shutil.rmtree(old, ignore_errors=True)
    prefix = f"{stem}{os.getpid()}-"
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir=target.parent, ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)
