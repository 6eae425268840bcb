"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from xrouter_lg.testing import FakeModel, FakeOpenAIServer


@pytest.fixture
def fake() -> Iterator[FakeOpenAIServer]:
    """A running fake provider with models that say who they are."""
    models = [
        FakeModel(name="small", reply="small says hello to you"),
        FakeModel(name="medium", reply="medium says a few more words to you"),
        FakeModel(
            name="large",
            reply="large says many more words than the others do",
            cached_tokens=2,
            reasoning_tokens=3,
        ),
        FakeModel(name="guide", reply="I route"),
    ]
    with FakeOpenAIServer(models) as running:
        yield running
