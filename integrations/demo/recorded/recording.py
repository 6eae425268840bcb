"""The file that a recording grows in: one answer a line, added as it arrives."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from integrations.demo.recorded.task import Task


@dataclass(frozen=True, slots=True)
class RecordedAnswer:
    """What one model answered, before anyone judged it."""

    prompt_id: str
    model: str
    max_tokens: int
    text: str
    finish_reason: str
    input_tokens: int
    output_tokens: int
    latency_s: float


class Recording:
    """Answers in a JSON Lines file. Safe from several threads, and from being killed: a line that
    was cut off is dropped at the next start, and its question is asked again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._drop_half_line()
        self._answers = {(a.prompt_id, a.model): a for a in self._read()}

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, task: Task, model: str) -> RecordedAnswer | None:
        """The answer to a task as it stands now: one given under another limit does not count."""
        found = self._answers.get((task.prompt_id, model))
        return found if found is not None and found.max_tokens == task.max_tokens else None

    def add(self, answer: RecordedAnswer) -> None:
        line = json.dumps(asdict(answer), ensure_ascii=False) + "\n"
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            self._answers[(answer.prompt_id, answer.model)] = answer

    def _read(self) -> Iterator[RecordedAnswer]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield RecordedAnswer(**json.loads(line))

    def _drop_half_line(self) -> None:
        with self.path.open("rb+") as file:
            content = file.read()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                file.truncate(whole)
                os.fsync(file.fileno())
