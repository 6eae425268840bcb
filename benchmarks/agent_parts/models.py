"""The two models behind OpenAI's protocol: out of the recording, or running where it has no answer.

The bill is that of a provider with a prompt cache: what a model has read in the same run before,
its own answers among it, costs the cached rate.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.agent_parts.recording import (
    AgentAnswer,
    AgentRecording,
    NeverAskedError,
    ask,
    key_of,
    plain,
)
from integrations.demo.recorded.build import read_prices
from integrations.llama_cpp.catalogue import get_weights
from xrouter_lg import ModelCard, ModelPool
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall, Usage

CARDS: Mapping[str, str] = {"small": "qwen2.5-coder-0.5b", "large": "qwen2.5-coder-1.5b"}
"""Card → model, cheaper first."""


@dataclass
class AgentModels:
    """What answers: a recording, and the base URLs of running models where that is to grow."""

    recording: AgentRecording
    running: Mapping[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """Keys of the answers that were given."""
    _read: dict[tuple[str, str], int] = field(default_factory=dict)
    """Conversation → its tokens, of those that a model has read or said."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def forget(self) -> None:
        """Every prompt cache is empty again."""
        with self._lock:
            self._read.clear()

    def answer(self, model: str, body: Mapping[str, Any]) -> AgentAnswer:
        """Raises: NeverAskedError."""
        found = self.recording.get(model, body)
        if found is None:
            if model not in self.running:
                last = body["messages"][-1]
                raise NeverAskedError(
                    f"{model} was never asked this, ending in {last.get('content')!r}; "
                    "run 'python -m benchmarks.agents --record' where llama.cpp is installed"
                )
            found = ask(self.running[model], model, body)
            self.recording.add(found)
        self.used.add(found.key)
        return found

    def cached_tokens(self, model: str, body: Mapping[str, Any], answer: AgentAnswer) -> int:
        """Tokens of this prompt that the model has in its cache, which now has all of it."""
        said = [str(plain(message)) for message in body["messages"]]
        calls = [[call["name"], call["arguments"]] for call in answer.calls]
        own = str(["assistant", answer.text, calls])
        with self._lock:
            lengths = range(len(said), 0, -1)
            known = (self._read.get((model, "".join(said[:length]))) for length in lengths)
            cached = next((tokens for tokens in known if tokens is not None), 0)
            self._read[model, "".join(said)] = answer.prompt_tokens
            whole = answer.prompt_tokens + answer.completion_tokens
            self._read[model, "".join([*said, own])] = whole
        return min(cached, answer.prompt_tokens)

    def reply(self, model: str, body: Mapping[str, Any]) -> Reply:
        found = self.answer(model, body)
        return Reply(
            content=found.text or None,
            tool_calls=[
                ToolCall(call["name"], call["arguments"], f"{key_of(model, body)[:8]}_{place}")
                for place, call in enumerate(found.calls)
            ],
            finish_reason=found.finish_reason,
            usage=Usage(
                prompt_tokens=found.prompt_tokens,
                completion_tokens=found.completion_tokens,
                cached_tokens=self.cached_tokens(model, body, found),
            ),
        )

    @contextlib.contextmanager
    def served(self) -> Iterator[ModelPool]:
        """A pool of both over HTTP, at the prices measured for the demo."""

        def replies(model: str) -> Any:
            return lambda body: self.reply(model, body)

        fakes = [FakeModel(name=model, reply=replies(model)) for model in CARDS.values()]
        with FakeOpenAIServer(fakes, keep_requests=0) as server:
            yield ModelPool(
                [
                    ModelCard(
                        name=card,
                        model=f"openai:{model}",
                        base_url=server.base_url,
                        price=price_of(model),
                        context_window=4096,
                        max_output_tokens=160,
                        capabilities=frozenset(get_weights(model).capabilities),
                        description=get_weights(model).description,
                        timeout_s=3600,
                        params={"temperature": 0},
                    )
                    for card, model in CARDS.items()
                ],
                default="large",
            )


def price_of(model: str) -> dict[str, float]:
    """USD per million tokens of a model, by kind."""
    price = read_prices()[model]
    return {"input": price.input, "cached_input": price.cached_input, "output": price.output}
