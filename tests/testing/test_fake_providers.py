"""Each provider's real client reads the fake as it reads the provider."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from tests.support.provider_matrix import EACH_PROVIDER, Provider, fake_providers
from xrouter_lg.testing import (
    FakeModel,
    FakeProviders,
    FaultPlan,
    Reply,
    ToolCall,
    Usage,
    auth_error,
    bad_request,
)

USAGE = Usage(prompt_tokens=1000, completion_tokens=200, cached_tokens=300, reasoning_tokens=70)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProviders]:
    with fake_providers(monkeypatch) as running:
        yield running


def said(provider: Provider, server: FakeProviders) -> list[AIMessage]:
    """The answer that the client gives by `invoke`, and the one that it streams."""
    model = provider.by_hand(server)
    chunks = list(model.stream("Hello"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return [model.invoke("Hello"), whole]


@EACH_PROVIDER
def test_every_client_reads_the_same_answer(provider: Provider, server: FakeProviders) -> None:
    server.add_model(FakeModel(name="m", reply=Reply("It is Paris.", usage=USAGE)))
    for message in said(provider, server):
        usage = message.usage_metadata
        assert message.text == "It is Paris."
        if provider.name == "perplexity":  # its class leaves the thoughts beside the sums
            assert usage is not None and usage["output_tokens"] == 130
        elif provider.name != "compatible":  # OpenAI's class adds up what is repeated
            assert usage is not None and usage["output_tokens"] == 200
            assert usage["input_tokens"] == 1000


@EACH_PROVIDER
def test_every_client_reads_tool_calls(provider: Provider, server: FakeProviders) -> None:
    if provider.name == "perplexity":
        pytest.skip("Sonar takes no tools")
    looks = [ToolCall("look", {"city": "Rome"}), ToolCall("look", {"city": "Oslo"})]
    server.add_model(FakeModel(name="m", reply=Reply(tool_calls=looks)))
    for message in said(provider, server):
        called = [(call["name"], call["args"]) for call in message.tool_calls]
        assert called == [("look", {"city": "Rome"}), ("look", {"city": "Oslo"})]


@EACH_PROVIDER
def test_every_client_raises_what_the_status_says(
    provider: Provider, server: FakeProviders
) -> None:
    for fault, status in ((auth_error(), "401"), (bad_request(), "400")):
        server.faults = FaultPlan(default=fault)
        model = provider.by_hand(server, max_retries=0)
        with pytest.raises(Exception, match=f"{status}|fake") as raised:
            model.invoke("Hello")
        assert status in f"{raised.value} {getattr(raised.value, 'status_code', '')}"


@EACH_PROVIDER
def test_the_answer_is_on_the_servers_own_bill(provider: Provider, server: FakeProviders) -> None:
    usage = Usage(prompt_tokens=100, completion_tokens=10, cost_usd=Decimal("0.0123"))
    server.add_model(FakeModel(name="m", reply=Reply("It is Paris.", usage=usage)))
    provider.by_hand(server).invoke([HumanMessage("Hello")])
    (line,) = server.bill
    assert (line.model, line.usage) == ("m", usage)


def test_a_provider_that_nobody_imitates_is_refused(server: FakeProviders) -> None:
    with pytest.raises(ValueError, match="no fake of provider 'cohere'; known: openai"):
        server.base_url_of("cohere")
