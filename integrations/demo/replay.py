"""Recorded answers over HTTP: a server that says again what three real models said.

It speaks OpenAI's wire format and bills the tokens that were recorded, so an app, its ledger and
its traces can't tell it from the models. A question that was never recorded is refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from integrations.demo.questions import PastAnswer
from integrations.demo.recorded.record import asked
from xrouter_lg.errors import XRouterError
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply


class NotRecordedError(XRouterError, LookupError):
    """Nobody asked this model that question, or not in this conversation."""


@contextlib.contextmanager
def replay_server(answers: Mapping[tuple[str, str], PastAnswer]) -> Iterator[FakeOpenAIServer]:
    """A running server with every model of ``answers``, which are by prompt and model."""
    models = sorted({model for _, model in answers})
    fakes = [FakeModel(name=model, reply=_replies(model, answers)) for model in models]
    with FakeOpenAIServer(fakes, keep_requests=0) as server:
        yield server


def _replies(
    model: str, answers: Mapping[tuple[str, str], PastAnswer]
) -> Callable[[dict[str, Any]], Reply]:
    def reply(body: dict[str, Any]) -> Reply:
        said = [{"role": m["role"], "content": m["content"]} for m in body["messages"]]
        question = said[-1]["content"]
        # The answers hold for this conversation only: another system prompt, other answers.
        if said != asked(question):
            raise NotRecordedError(
                "recorded are conversations of the support app's system prompt and one question, "
                f"not {[message['role'] for message in said]}"
            )
        found = answers.get((question, model))
        if found is None:
            raise NotRecordedError(f"{model} was never asked {question!r}")
        return Reply(
            content=found.text,
            finish_reason="length" if found.truncated else "stop",
            prompt_tokens=found.input_tokens,
            completion_tokens=found.output_tokens,
        )

    return reply
