"""What one model thought never reaches another, and comes back to itself untouched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from tests.support.thinkers import Thinkers, thinkers
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.calls.attempt import CallTerms, Workers
from xrouter_lg.calls.sent.foreign import without_foreign_thoughts
from xrouter_lg.calls.worker.parameters import Bound
from xrouter_lg.types import PlannedCall

PROVIDERS = ("anthropic", "openai", "google", "openrouter")

LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string"}}},
    },
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Thinkers]:
    with thinkers(monkeypatch) as running:
        yield running


async def ask(card: ModelCard, messages: Sequence[BaseMessage]) -> AIMessage:
    call = PlannedCall("c1", card.name)
    result = await Workers().call(card, call, messages, {}, CallTerms(bound=Bound([LOOK], {}, {})))
    assert result.message is not None, result.detail
    return result.message


def recorded(card: ModelCard, answer: AIMessage) -> AIMessage:
    """The answer as the node hands it out."""
    record = {"route": card.name, "charges": [_charge(card)]}
    meta = {**answer.response_metadata, "xrouter": record}
    return answer.model_copy(update={"response_metadata": meta})


def _charge(card: ModelCard) -> dict[str, Any]:
    return {"kind": "worker", "card": card.name, "model": card.model_name}


def loop(answer: AIMessage) -> list[BaseMessage]:
    result = ToolMessage("blue", tool_call_id=answer.tool_calls[0]["id"])
    return [HumanMessage("What colour?"), answer, result]


@pytest.mark.parametrize("known", ["by its record", "by what the provider said"])
@pytest.mark.parametrize("reader", PROVIDERS)
@pytest.mark.parametrize("thinker", PROVIDERS)
async def test_thoughts_reach_nobody_but_who_had_them(
    server: Thinkers, thinker: str, reader: str, known: str
) -> None:
    card = server.cards[thinker]
    answer = await ask(card, [HumanMessage("What colour?")])
    if known == "by its record":
        answer = recorded(card, answer)
    await ask(server.cards[reader], loop(answer))
    body = server.bodies[-1]
    assert "look" in body
    assert "sky" in body
    assert "Let me look." in body
    if thinker == reader:
        assert "secret-of" in body or "c2VjcmV0" in body
    else:
        assert "secret-of" not in body
        assert "c2VjcmV0" not in body


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_another_model_of_the_same_provider_is_another_one(
    server: Thinkers, provider: str
) -> None:
    card = server.cards[provider]
    answer = recorded(card, await ask(card, [HumanMessage("What colour?")]))
    sibling = ModelCard(
        name="sibling",
        model=f"{card.provider}:other",
        base_url=card.base_url,
        api_key_env=card.api_key_env,
        params=card.params,
    )
    await ask(sibling, loop(answer))
    assert "secret-of" not in server.bodies[-1]
    assert "c2VjcmV0" not in server.bodies[-1]


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_a_model_gets_its_own_message_back_as_it_was(server: Thinkers, provider: str) -> None:
    card = server.cards[provider]
    history = loop(recorded(card, await ask(card, [HumanMessage("What colour?")])))
    assert without_foreign_thoughts(history, card) is history


def test_a_card_whose_model_was_changed_has_not_had_these_thoughts(server: Thinkers) -> None:
    card = server.cards["anthropic"]
    content: Any = [{"type": "thinking", "thinking": "hm", "signature": "s"}, "Yes."]
    record = {"route": "claude", "charges": [{**_charge(card), "model": "claude-older"}]}
    message = AIMessage(content, response_metadata={"xrouter": record})
    (sent,) = without_foreign_thoughts([message], card)
    assert sent.content == "Yes."


def test_a_record_from_a_checkpoint_says_whose_the_thoughts_are(server: Thinkers) -> None:
    card = server.cards["anthropic"]
    content: Any = [{"type": "thinking", "thinking": "hm", "signature": "s"}, "Yes."]
    for model, sent in ((card.model_name, content), ("claude-older", "Yes.")):
        record = {"route": "claude", "model": model}
        message = AIMessage(content, response_metadata={"xrouter": record})
        assert without_foreign_thoughts([message], card)[0].content == sent


async def test_a_model_gets_its_message_back_from_a_checkpoint(server: Thinkers) -> None:
    card = server.cards["anthropic"]
    node = XRouterNode(ModelPool([card])).bind_tools([LOOK])
    asked = HumanMessage("What colour?")
    serde = JsonPlusSerializer()
    (answer,) = (await node.ainvoke({"messages": [asked]}))["messages"]
    (stored,) = serde.loads_typed(serde.dumps_typed([answer]))
    assert stored.response_metadata["xrouter"]["model"] == card.model_name
    history = [asked, stored, ToolMessage("blue", tool_call_id=stored.tool_calls[0]["id"])]
    assert without_foreign_thoughts(history, card) is history


def test_plain_messages_are_sent_as_they_are(server: Thinkers) -> None:
    other = {"xrouter": {"route": "gpt", "charges": []}, "model_provider": "openai"}
    history = [
        HumanMessage([{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]),
        AIMessage("Hello", response_metadata=other),
        HumanMessage("Again"),
    ]
    assert without_foreign_thoughts(history, server.cards["anthropic"]) is history


def test_pictures_that_a_model_made_are_said_not_thought(server: Thinkers) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    content: Any = [{"type": "reasoning", "summary": []}, {"type": "text", "text": "So"}, picture]
    message = AIMessage(content, response_metadata={"model_provider": "openai"})
    (sent,) = without_foreign_thoughts([message], server.cards["anthropic"])
    assert sent.content == [{"type": "text", "text": "So"}, picture]


def test_a_thought_of_unknown_origin_is_judged_by_its_kind(server: Thinkers) -> None:
    content: Any = [{"type": "thinking", "thinking": "hm", "signature": "s"}, "Yes."]
    message = AIMessage(content)
    assert without_foreign_thoughts([message], server.cards["anthropic"]) == [message]
    for reader in ("openai", "google", "openrouter"):
        (sent,) = without_foreign_thoughts([message], server.cards[reader])
        assert sent.content == "Yes."
    signed = AIMessage(
        "Yes.", additional_kwargs={"__gemini_function_call_thought_signatures__": {"c1": "s"}}
    )
    assert without_foreign_thoughts([signed], server.cards["google"]) == [signed]
    (sent,) = without_foreign_thoughts([signed], server.cards["anthropic"])
    assert sent.additional_kwargs == {}


@pytest.mark.parametrize("thinker", ["anthropic", "openai", "google"])
async def test_langchains_own_format_hides_no_thought(server: Thinkers, thinker: str) -> None:
    card = _changed(server.cards[thinker], output_version="v1")
    answer = await ask(card, [HumanMessage("What colour?")])
    for reader in set(PROVIDERS) - {thinker}:
        await ask(server.cards[reader], loop(answer))
        body = server.bodies[-1]
        assert "secret-of" not in body
        assert "c2VjcmV0" not in body
        assert "Let me look." in body
        assert "sky" in body


async def test_an_answer_on_another_server_is_not_referred_to(server: Thinkers) -> None:
    card = server.cards["openai"]
    answer = recorded(card, await ask(card, [HumanMessage("What colour?")]))
    assert answer.response_metadata["id"] == "resp_secret-of-openai"
    following = _changed(card, name="other", use_previous_response_id=True)
    await ask(following, loop(answer))
    assert "previous_response_id" not in server.bodies[-1]
    assert "What colour?" in server.bodies[-1]


def _changed(card: ModelCard, *, name: str | None = None, **params: Any) -> ModelCard:
    return ModelCard(
        name=name or card.name,
        model=card.model,
        base_url=card.base_url,
        api_key_env=card.api_key_env,
        params={**card.params, **params},
    )
