"""Recorded answers over HTTP: a server that says again what three real models said.

It speaks OpenAI's wire format and bills the tokens that were recorded, so an app, its ledger and
its traces can't tell it from the models. A question that was never recorded is refused. What
answers under a model's name can be swapped, as a provider may do without telling anybody.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from integrations.demo.questions import History, PastAnswer
from integrations.demo.recorded.build import read_prices
from integrations.demo.recorded.record import asked
from integrations.demo.users import ReplayedJudge
from integrations.llama_cpp.measure import TokenPrice
from xrouter_lg.errors import XRouterError
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply

JUDGE = "judge"
"""Name of the model that grades answers."""


class NotRecordedError(XRouterError, LookupError):
    """Nobody asked this model that question, or not in this conversation."""


@dataclass
class RecordedModels:
    """What answers under each model's name, and at what price."""

    history: History
    behind: dict[str, str] = field(default_factory=dict)
    """Name → the model whose answers are given under it, where that is another one."""
    prices: dict[str, TokenPrice] = field(default_factory=read_prices)

    @property
    def names(self) -> list[str]:
        return sorted({model for _, model in self.history.answers})

    def answer(self, name: str, prompt: str) -> PastAnswer:
        """Raises: NotRecordedError."""
        found = self.history.answers.get((prompt, self.behind.get(name, name)))
        if found is None:
            raise NotRecordedError(f"{name} was never asked {prompt!r}")
        return found

    def usd(self, name: str, prompt: str) -> float:
        """What the answer costs: its tokens at the prices of the name that was asked for."""
        said, price = self.answer(name, prompt), self.prices[name]
        return (said.input_tokens * price.input + said.output_tokens * price.output) / 1e6

    def score(self, prompt: str, text: str) -> float:
        """Whether an answer is right, whoever gave it; 0 for one that nobody gave."""
        answers = (self.history.answers.get((prompt, model)) for model in self.names)
        return next((a.score for a in answers if a is not None and a.text == text), 0.0)


@contextlib.contextmanager
def replay_server(
    models: RecordedModels, *, judge: ReplayedJudge | None = None, port: int = 0
) -> Iterator[FakeOpenAIServer]:
    """A running server with every recorded model, and a judge.

    Raises:
        OSError: the port is taken.
    """
    fakes = [FakeModel(name=name, reply=_replies(name, models)) for name in models.names]
    if judge is not None:
        fakes.append(FakeModel(name=JUDGE, reply=judge.reply))
    with FakeOpenAIServer(fakes, keep_requests=0, port=port) as server:
        yield server


def _replies(name: str, models: RecordedModels) -> Callable[[dict[str, Any]], Reply]:
    def reply(body: dict[str, Any]) -> Reply:
        said = [{"role": m["role"], "content": m["content"]} for m in body["messages"]]
        question = said[-1]["content"]
        # The answers hold for this conversation only: another system prompt, other answers.
        if said != asked(question):
            raise NotRecordedError(
                "recorded are conversations of the support app's system prompt and one question, "
                f"not {[message['role'] for message in said]}"
            )
        found = models.answer(name, question)
        return Reply(
            content=found.text,
            finish_reason="length" if found.truncated else "stop",
            prompt_tokens=found.input_tokens,
            completion_tokens=found.output_tokens,
        )

    return reply
