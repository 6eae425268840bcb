"""What a generated task is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SOURCE = "xrouter_demo"
"""The ``source`` of every row of the outcome table."""


@dataclass(frozen=True, slots=True)
class Task:
    """A question whose answer a program can judge."""

    family: str
    prompt: str
    reference: str
    """What the family's verifier compares with: a text, a pattern, tests, or JSON."""
    max_tokens: int
    """Limit of an answer."""

    @property
    def prompt_id(self) -> str:
        """The same for the same question, whatever else is generated: a recording goes on."""
        digest = hashlib.blake2b(self.prompt.encode(), digest_size=5).hexdigest()
        return f"{self.family}-{digest}"


def texts(module: str) -> Any:
    """What the generators of a module of ``families`` are made of."""
    path = Path(__file__).parent / "families" / "texts.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))[module]


def any_word(words: Iterable[str]) -> str:
    """A pattern that is found where one of these stands as a whole word, in any case."""
    return rf"(?i)\b(?:{'|'.join(map(re.escape, words))})\b"
