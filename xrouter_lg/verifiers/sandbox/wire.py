"""Plain data between two sandboxed processes: JSON lines with a tag for what JSON lacks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

MAX_LINE = 4_000_000
_MAX_ITEMS = 100_000
_MAX_DEPTH = 100


class NotPlainError(Exception):
    """A value that can't cross: an object of a class of its own, a function, a module."""


def pack(value: Any, depth: int = 0) -> Any:
    """JSON-able form. Subclasses of plain types cross as what they are at heart."""
    if depth > _MAX_DEPTH:
        raise NotPlainError("data nested more than 100 deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Decimal digits of a huge number take quadratic time, and Python refuses them.
        return int(value) if abs(value) < 1 << 63 else {"is": "int", "of": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list | tuple | set | frozenset):
        kinds = ("list", list), ("tuple", tuple), ("set", set), ("frozenset", frozenset)
        kind = next(name for name, base in kinds if isinstance(value, base))
        return {"is": kind, "of": [pack(item, depth + 1) for item in value]}
    if isinstance(value, dict):
        pairs = [[pack(k, depth + 1), pack(v, depth + 1)] for k, v in value.items()]
        return {"is": "dict", "of": pairs}
    if isinstance(value, bytes | bytearray):
        return {"is": type(value).__name__, "of": value.hex()}
    if isinstance(value, complex):
        return {"is": "complex", "of": [value.real, value.imag]}
    if isinstance(value, range):
        return {"is": "range", "of": [value.start, value.stop, value.step]}
    if isinstance(value, Iterator):
        items = list(islice(value, _MAX_ITEMS + 1))
        if len(items) > _MAX_ITEMS:
            raise NotPlainError(f"an iterator of more than {_MAX_ITEMS} items")
        return {"is": "iterator", "of": [pack(item, depth + 1) for item in items]}
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return pack(value.tolist(), depth + 1)
    raise NotPlainError(f"an object of type {type(value).__name__}")


def unpack(data: Any) -> Any:
    """The value that :func:`pack` packed, built from exact built-in types only."""
    if not isinstance(data, dict):
        return data
    kind, of = data["is"], data["of"]
    if kind == "dict":
        return {unpack(key): unpack(value) for key, value in of}
    if kind in ("bytes", "bytearray"):
        raw = bytes.fromhex(of)
        return raw if kind == "bytes" else bytearray(raw)
    if kind == "int":
        return int(of, 16)
    if kind == "complex":
        return complex(*of)
    if kind == "range":
        return range(*of)
    items = [unpack(item) for item in of]
    if kind == "iterator":
        return iter(items)
    made: Any = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](items)
    return made


class Line:
    """One JSON object a line over a pair of pipes.

    Raises:
        EOFError: the other side ended.
        ValueError: the other side sent no JSON object, or one beyond ``MAX_LINE`` bytes.
    """

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest = read, write, b""

    def send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\n"
        while data:
            data = data[os.write(self._write, data) :]

    def receive(self) -> dict[str, Any]:
        while b"\n" not in self._rest:
            if len(self._rest) > MAX_LINE:
                raise ValueError(f"a message of more than {MAX_LINE} bytes")
            data = os.read(self._read, 65536)
            if not data:
                raise EOFError
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("not a JSON object")
        return message
