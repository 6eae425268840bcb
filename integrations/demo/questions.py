"""The demo's questions: recorded ones, split into last week's traffic and what is held out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from xrouter_lg.outcomes import OutcomeTable

DATA = Path(__file__).resolve().parent / "recorded"
HELD_OUT = 0.4
"""Share of the questions that nothing is learned from."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a user, and how to tell a right answer."""

    prompt_id: str
    task: str
    prompt: str
    reference: str
    held_out: bool


@dataclass(frozen=True, slots=True)
class PastAnswer:
    """What one model answered when it was asked."""

    text: str
    input_tokens: int
    output_tokens: int
    truncated: bool


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


def is_held_out(prompt_id: str) -> bool:
    """By a hash of the name: a question is on the same side in every run and every selection."""
    digest = hashlib.sha256(f"demo:{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < HELD_OUT


def load(folder: Path = DATA, *, per_family: int | None = None) -> History:
    """The recorded table; ``per_family`` keeps so many questions of each kind of task, in the
    order of their hash.

    Raises:
        OutcomeError: the table is not there or can't be read.
    """
    table = OutcomeTable.load(folder)
    rows = table.prompts.select("task", "prompt_id", "prompt", "reference", "meta").collect()
    rows = rows.sort(pl.col("prompt_id").map_elements(_order, return_dtype=pl.String))
    questions: list[Question] = []
    counts: Counter[str] = Counter()
    limits: dict[str, int] = {}
    for task, prompt_id, prompt, reference, meta in rows.iter_rows():
        counts[task] += 1
        if per_family is None or counts[task] <= per_family:
            held_out = is_held_out(prompt_id)
            questions.append(Question(prompt_id, task, prompt, reference, held_out))
            limits[prompt] = int(json.loads(meta)["max_tokens"])
    prompts = {question.prompt_id: question.prompt for question in questions}
    answers = {}
    columns = ("prompt_id", "model", "response", "input_tokens", "output_tokens")
    recorded = table.outcomes.select(columns).collect()
    for prompt_id, model, text, read, written in recorded.iter_rows():
        if prompt_id in prompts:
            prompt = prompts[prompt_id]
            cut = written >= limits[prompt]
            answers[prompt, model] = PastAnswer(text, read, written, truncated=cut)
    return History(tuple(questions), answers)


def write_references(questions: Sequence[Question], path: Path) -> None:
    """What verifiers compare with, as JSON lines with ``prompt`` and ``reference``."""
    lines = [json.dumps({"prompt": q.prompt, "reference": q.reference}) for q in questions]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _order(prompt_id: str) -> str:
    return hashlib.sha256(prompt_id.encode()).hexdigest()
