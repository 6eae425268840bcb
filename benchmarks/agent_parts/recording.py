"""What the models answered, kept by the very conversation that they were asked in.

An agent over recorded answers takes the same steps as over the models: the same question in the
same conversation has one greedy answer. What was never recorded is refused, or asked of the models
where they run.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

RECORDED = Path(__file__).with_name("answers.jsonl.gz")
_PATIENT = httpx.Timeout(10.0, read=None)
_LONGEST = 160
"""Tokens of an answer: a call or a short sentence."""


class NeverAskedError(LookupError):
    """A model was never asked this, in this conversation."""


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """One greedy answer."""

    key: str
    model: str
    text: str
    calls: list[dict[str, str]]
    """``name`` and ``arguments`` (JSON) of each tool call."""
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    """Of the prompt: what llama.cpp took from its own cache, whatever it had been asked before."""


class AgentRecording:
    """Answers by model and conversation; new ones go to a JSON Lines file as they arrive."""

    def __init__(self, path: Path = RECORDED, grows: Path | None = None) -> None:
        self.grows = grows
        self._answers: dict[str, AgentAnswer] = {}
        self._lock = threading.Lock()
        if path.exists():
            self._read(gzip.decompress(path.read_bytes()).decode())
        if grows is not None and grows.exists():
            self._read(grows.read_text(encoding="utf-8"))

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, model: str, body: Mapping[str, Any]) -> AgentAnswer | None:
        """The answer to a request's body as OpenAI's protocol has it."""
        return self._answers.get(key_of(model, body))

    def add(self, answer: AgentAnswer) -> None:
        line = json.dumps(asdict(answer), ensure_ascii=False) + "\n"
        with self._lock:
            self._answers[answer.key] = answer
            if self.grows is not None:
                with self.grows.open("a", encoding="utf-8") as file:
                    file.write(line)

    def write(self, path: Path = RECORDED, keys: set[str] | None = None) -> None:
        """All answers, or those with these keys, as the file that goes with the code: the same
        answers, the same bytes."""
        kept = [a for key, a in sorted(self._answers.items()) if keys is None or key in keys]
        lines = "".join(json.dumps(asdict(a), ensure_ascii=False) + "\n" for a in kept)
        path.write_bytes(gzip.compress(lines.encode(), mtime=0))

    def _read(self, text: str) -> None:
        for line in text.splitlines():
            answer = AgentAnswer(**json.loads(line))
            self._answers[answer.key] = answer


def ask(base_url: str, model: str, body: Mapping[str, Any]) -> AgentAnswer:
    """One greedy answer of a running model.

    Raises:
        httpx.HTTPError: the server failed.
    """
    asked = {
        "model": model,
        "messages": body["messages"],
        "tools": body["tools"],
        "temperature": 0,
        "max_tokens": _LONGEST,
    }
    url = f"{base_url}/chat/completions"
    response = httpx.post(url, json=asked, timeout=_PATIENT, trust_env=False)
    response.raise_for_status()
    found = response.json()
    choice, usage = found["choices"][0], found["usage"]
    said = choice["message"]
    return AgentAnswer(
        key=key_of(model, body),
        model=model,
        text=said.get("content") or "",
        calls=[
            {"name": call["function"]["name"], "arguments": call["function"]["arguments"]}
            for call in said.get("tool_calls") or ()
        ],
        finish_reason=choice["finish_reason"],
        prompt_tokens=usage["prompt_tokens"],
        completion_tokens=usage["completion_tokens"],
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
    )


def key_of(model: str, body: Mapping[str, Any]) -> str:
    """A digest of model, conversation and tools; ids of calls, which are random, left out."""
    said = [plain(message) for message in body["messages"]]
    text = json.dumps([model, said, body.get("tools")], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def plain(message: Mapping[str, Any]) -> list[Any]:
    """A message's role, text and calls."""
    calls = [
        [call["function"]["name"], call["function"]["arguments"]]
        for call in message.get("tool_calls") or ()
    ]
    return [message["role"], message.get("content") or "", calls]
