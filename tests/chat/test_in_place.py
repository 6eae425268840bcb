"""``ChatXRouter`` in the place of a ``ChatOpenAI``, and ``XRouterMiddleware`` in its agents."""

from __future__ import annotations

import pytest

from tests.support.in_place import AGENTS, APPS, ASKED, by_hand, one_card, told_and_sent
from xrouter_lg import ChatXRouter, XRouterMiddleware
from xrouter_lg.testing import FakeOpenAIServer


@pytest.mark.parametrize("name", [*ASKED, *APPS])
def test_the_same_is_asked_and_told(name: str, fake: FakeOpenAIServer) -> None:
    routed, ask = ChatXRouter(one_card(fake)), {**ASKED, **APPS}[name]
    told, sent = told_and_sent(ask, by_hand(fake.base_url), fake)
    told_too, sent_too = told_and_sent(ask, routed, fake)
    assert sent_too == sent
    assert told_too == told


@pytest.mark.parametrize("name", AGENTS)
def test_a_layer_that_has_nothing_to_choose_changes_nothing(
    name: str, fake: FakeOpenAIServer
) -> None:
    layer, ask, model = XRouterMiddleware(one_card(fake)), AGENTS[name], by_hand(fake.base_url)
    told, sent = told_and_sent(lambda it: ask(it, []), model, fake)
    told_too, sent_too = told_and_sent(lambda it: ask(it, [layer]), model, fake)
    assert sent_too == sent
    assert told_too == told
