"""The server in the place of its worker, before a ``ChatOpenAI`` that only changes its address."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.in_place import APPS, ASKED, by_hand, one_card, told_and_sent
from xrouter_lg import ChatXRouter
from xrouter_lg.serve.app import create_app
from xrouter_lg.serve.run import running
from xrouter_lg.testing import FakeOpenAIServer


@pytest.mark.parametrize("name", [*ASKED, *APPS])
def test_the_same_is_asked_and_told(name: str, fake: FakeOpenAIServer) -> None:
    ask: Any = {**ASKED, **APPS}[name]
    pool = one_card(fake)
    told, sent = told_and_sent(ask, by_hand(fake.base_url), fake)
    with running(create_app(ChatXRouter(pool))) as url:
        told_too, sent_too = told_and_sent(ask, by_hand(f"{url}/v1", "xrouter"), fake)
    assert sent_too == sent
    assert told_too == told
