"""The demo's questions, recorded ones: those that users ask, and those that nothing learns from."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from xrouter_lg.outcomes import OutcomeTable

DATA = Path(__file__).resolve().parent / "recorded"
HELD_OUT = 0.4
"""Share of the questions that nobody asks before the closing table."""
SPLIT = "demo"
"""Names the split: with another one other questions are held out."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a user."""

    prompt_id: str
    prompt: str
    held_out: bool


@dataclass(frozen=True, slots=True)
class PastAnswer:
    """What one model answered when it was asked."""

    text: str
    input_tokens: int
    output_tokens: int
    truncated: bool
    score: float
    """1 where it is right. Nobody in the demo sees it but the users and the closing table."""


@dataclass(frozen=True)
class History:
    """Questions, and what every model answered to each."""

    questions: tuple[Question, ...]
    answers: Mapping[tuple[str, str], PastAnswer]
    """By prompt and model."""

    @property
    def seen(self) -> list[Question]:
        return [question for question in self.questions if not question.held_out]

    @property
    def held_out(self) -> list[Question]:
        return [question for question in self.questions if question.held_out]


def is_held_out(prompt_id: str, split: str = SPLIT) -> bool:
    """By a hash of the name: a question is on the same side in every run and every selection."""
    digest = hashlib.sha256(f"{split}:{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < HELD_OUT


def load(folder: Path = DATA, *, per_family: int | None = None, split: str = SPLIT) -> History:
    """The recorded table; ``per_family`` keeps so many questions of each kind of task, in the
    order of their hash.

    Raises:
        OutcomeError: the table is not there or can't be read.
    """
    table = OutcomeTable.load(folder)
    rows = table.prompts.select("task", "prompt_id", "prompt", "meta").collect()
    rows = rows.sort(pl.col("prompt_id").map_elements(_order, return_dtype=pl.String))
    questions: list[Question] = []
    counts: Counter[str] = Counter()
    limits: dict[str, int] = {}
    for task, prompt_id, prompt, meta in rows.iter_rows():
        counts[task] += 1
        if per_family is None or counts[task] <= per_family:
            questions.append(Question(prompt_id, prompt, is_held_out(prompt_id, split)))
            limits[prompt] = int(json.loads(meta)["max_tokens"])
    prompts = {question.prompt_id: question.prompt for question in questions}
    answers = {}
    columns = ("prompt_id", "model", "response", "input_tokens", "output_tokens", "score")
    recorded = table.outcomes.select(columns).collect()
    for prompt_id, model, text, read, written, score in recorded.iter_rows():
        if prompt_id in prompts:
            prompt = prompts[prompt_id]
            cut = written >= limits[prompt]
            answers[prompt, model] = PastAnswer(text, read, written, cut, score)
    return History(tuple(questions), answers)


def _order(prompt_id: str) -> str:
    return hashlib.sha256(prompt_id.encode()).hexdigest()
