"""The engine behind a checkpoint policy, and how a test holds it back."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from xrouter_lg.policies.slots.policy import CheckpointPolicy
from xrouter_lg.policies.slots.torch_engine import Engine

QUESTIONS = ("hi", "What is 17 * 23?", "Write a poem about the sea. " * 12)


def loaded(policy: CheckpointPolicy) -> Engine:
    return policy._engine().result()


def hold(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[int]]:
    """Make the engine wait before each pass; how many questions each pass has."""
    go_on, sizes = threading.Event(), list[int]()
    real = engine._pass

    def slow(at: int, questions: Any) -> Any:
        sizes.append(len(questions))
        assert go_on.wait(60)
        return real(at, questions)

    monkeypatch.setattr(engine, "_pass", slow)
    return go_on, sizes
