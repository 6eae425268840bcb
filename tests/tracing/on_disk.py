"""Everything that could be read out of a store's files, by whoever gets hold of them."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import zstandard

from xrouter_lg.tracing.runs.pack import _dictionary, unpack

_FRAME = b"\x28\xb5\x2f\xfd"


def readable(db: Path) -> bytes:
    """The bytes of the file, its log and its index, and what every packed piece among them says:
    also pieces that no row points to any more. A piece in several parts is read to its first break.
    """
    found: list[bytes] = []
    for path in sorted(db.parent.glob(f"{db.name}*")):
        data = path.read_bytes()
        found.append(data)
        at = data.find(_FRAME)
        while at >= 0:
            found.append(_unpacked(data[at : at + 1_000_000]))
            at = data.find(_FRAME, at + 1)
    with contextlib.closing(sqlite3.connect(db)) as connection:
        for query in ("SELECT data FROM payloads", "SELECT record FROM routes"):
            found += [unpack(row[0]) for row in connection.execute(query)]
    return b"\n".join(found)


def _unpacked(frame: bytes) -> bytes:
    reader = zstandard.ZstdDecompressor(dict_data=_dictionary(1)).decompressobj()
    text = b""
    for start in range(0, len(frame), 16):
        try:
            text += reader.decompress(frame[start : start + 16])
        except zstandard.ZstdError:
            break
        if reader.eof:
            break
    return text
