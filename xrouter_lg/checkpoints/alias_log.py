"""The log of every move of an alias: lines are only ever appended."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from xrouter_lg.types import known_fields

AUDIT_FILE = "aliases.log.jsonl"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Move:
    """One line of the log."""

    id: str
    step: Literal["intended", "done", "not carried out"]
    action: Literal["promote", "rollback"]
    alias: str
    at: str
    by: str
    from_checkpoint: str | None
    from_version: str | None
    to_checkpoint: str
    to_version: str
    report: str | None = None
    forced: str | None = None
    """The reason given for going without a verdict."""


def history(root: str | Path, alias: str | None = None) -> list[Move]:
    """Finished moves, oldest first; of one alias, or of all."""
    done = [move for move in audit(root) if move.step == "done"]
    return [move for move in done if alias is None or move.alias == alias]


def audit(root: str | Path) -> list[Move]:
    """Every line of the log. A line torn by a crash is left out."""
    moves = []
    try:
        lines = Path(root, AUDIT_FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):
            moves.append(parsed(Move, line))
    return moves


def standing(moves: list[Move]) -> list[Move]:
    """Promotions that were not taken back, oldest first."""
    stack: list[Move] = []
    for move in moves:
        if move.action == "promote":
            stack.append(move)
            continue
        versions = [earlier.to_version for earlier in stack]
        if move.to_version in versions:
            last = len(versions) - 1 - versions[::-1].index(move.to_version)
            stack = stack[: last + 1]
        else:
            stack.append(move)
    return stack


def append(root: Path, move: Move) -> None:
    """Write a line, on disk when this returns."""
    line = json.dumps(dataclasses.asdict(move), ensure_ascii=False).encode() + b"\n"
    with root.joinpath(AUDIT_FILE).open("a+b") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = b"\n" + line  # a torn line ends here
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def parsed(kind: type[_T], text: str) -> _T:
    """A dataclass from its JSON; fields of a newer version are ignored."""
    return kind(**known_fields(kind, json.loads(text)))
