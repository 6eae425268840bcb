"""Structured output is asked for and read as the class of the card that answers does it."""

from __future__ import annotations

from typing import Any, TypedDict

import pytest
from langchain_core.exceptions import OutputParserException
from pydantic import BaseModel, Field

from tests.support.apps import card, pool
from tests.support.obliging import obliging
from xrouter_lg import ChatXRouter, ModelCard, ModelPool
from xrouter_lg.errors import RequestError
from xrouter_lg.testing import (
    FakeModel,
    FakeOpenAIServer,
    FakeProviders,
    FaultPlan,
    Reply,
    ToolCall,
    server_error,
)


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(description="the question")
    punchline: str


class JokeDict(TypedDict):
    """A joke."""

    setup: str
    punchline: str


@pytest.fixture
def model(fake: FakeOpenAIServer) -> ChatXRouter:
    fake.add_model(FakeModel(name="obliging", reply=obliging))
    return ChatXRouter(ModelPool([card(fake, "obliging")]))


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode", None])
@pytest.mark.parametrize("schema", [Joke, JokeDict, Joke.model_json_schema()])
async def test_every_method_gives_every_kind_of_schema(
    method: str | None, schema: Any, model: ChatXRouter
) -> None:
    options = {} if method is None else {"method": method}
    told = await model.with_structured_output(schema, **options).ainvoke("A joke, as JSON")
    kind = Joke if schema is Joke else dict
    assert isinstance(told, kind)
    assert set(told.model_dump() if isinstance(told, Joke) else told) == {"setup", "punchline"}


def test_the_raw_answer_comes_with_its_record(model: ChatXRouter) -> None:
    told = model.with_structured_output(Joke, include_raw=True).invoke("A joke")
    assert isinstance(told["parsed"], Joke)
    assert told["parsing_error"] is None
    assert told["raw"].response_metadata["xrouter"]["route"] == "obliging"


async def test_an_answer_that_is_none_is_the_parsers_error_or_told(fake: FakeOpenAIServer) -> None:
    model = ChatXRouter(pool(fake))
    with pytest.raises(OutputParserException):
        await model.with_structured_output(Joke, method="json_mode").ainvoke("A joke, as JSON")
    raw = model.with_structured_output(Joke, method="json_mode", include_raw=True)
    told = await raw.ainvoke("A joke, as JSON")
    assert told["parsed"] is None
    assert isinstance(told["parsing_error"], OutputParserException)


async def test_an_answer_that_its_class_refuses_to_read_costs_the_next_candidate(
    fake: FakeOpenAIServer,
) -> None:
    """ChatOpenAI reads an answer to a pydantic schema itself, and raises."""
    fake.add_model(FakeModel(name="obliging", reply=obliging))
    cards = ModelPool([card(fake, "small"), card(fake, "obliging")])
    told = await ChatXRouter(cards, policy="fixed:small").with_structured_output(Joke).ainvoke("?")
    assert isinstance(told, Joke)


def test_a_dict_streams_as_it_grows(model: ChatXRouter) -> None:
    parts = list(model.with_structured_output(JokeDict).stream("A joke"))
    assert len(parts) > 2
    assert parts[-1] == {"setup": "something", "punchline": "something"}


async def test_failover_to_another_provider_is_read_by_that_providers_class(
    fake: FakeOpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("langchain_anthropic")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not-a-key")
    fake.add_model(FakeModel(name="obliging", reply=obliging))
    fake.faults = FaultPlan({"obliging": server_error()})
    with FakeProviders([FakeModel(name="claude-x", reply=_anthropic_joke)]) as other:
        url = other.base_url_of("anthropic")
        claude = ModelCard(name="claude", model="anthropic:claude-x", base_url=url)
        cards = ModelPool([card(fake, "obliging"), claude])
        chat = ChatXRouter(cards, policy="fixed:obliging")
        told = await chat.with_structured_output(Joke, include_raw=True).ainvoke("A joke")
    assert told["raw"].response_metadata["xrouter"]["route"] == "claude"
    assert told["parsed"] == Joke(setup="Why?", punchline="Because.")


def _anthropic_joke(body: dict[str, Any]) -> Any:
    return Reply(
        tool_calls=[ToolCall(body["tools"][0]["name"], {"setup": "Why?", "punchline": "Because."})]
    )


def test_a_method_that_no_class_has_is_an_error_at_once(model: ChatXRouter) -> None:
    with pytest.raises(RequestError, match=r"method='telepathy'"):
        model.with_structured_output(Joke, method="telepathy")


@pytest.fixture
def chat(fake: FakeOpenAIServer) -> ChatXRouter:
    """Its favourite is known to keep to no schema."""
    fake.add_model(FakeModel(name="obliging", reply=obliging))
    cards = ModelPool([card(fake, "small", capabilities=["tools"]), card(fake, "obliging")])
    return ChatXRouter(cards, policy="fixed:small")


async def test_a_schema_that_an_agent_binds_needs_a_card_that_keeps_to_it(
    chat: ChatXRouter,
) -> None:
    form = {
        "type": "json_schema",
        "json_schema": {"name": "joke", "schema": Joke.model_json_schema()},
    }
    for asked in (chat.bind_tools([], response_format=form), chat.bind(response_format=Joke)):
        message = await asked.ainvoke("A joke")
        assert message.response_metadata["xrouter"]["route"] == "obliging"
    in_words = chat.with_structured_output(Joke, method="json_mode", include_raw=True)
    told = await in_words.ainvoke("A joke, as JSON")
    assert told["raw"].response_metadata["xrouter"]["route"] == "small"
    plain = await chat.bind(response_format={"type": "json_object"}).ainvoke("A joke, as JSON")
    assert plain.response_metadata["xrouter"]["route"] == "small"


async def test_a_card_that_is_known_to_have_no_schemas_is_no_candidate(chat: ChatXRouter) -> None:
    asked = chat.with_structured_output(Joke, method="json_schema", include_raw=True)
    told = await asked.ainvoke("A joke")
    assert told["raw"].response_metadata["xrouter"]["route"] == "obliging"
