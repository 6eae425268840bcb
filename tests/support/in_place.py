"""Ways to ask a chat model, and apps around one, to be compared with another in its place: the same
requests have to reach the same worker, and the same has to come of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    AgentMiddleware,
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    LLMToolSelectorMiddleware,
    TodoListMiddleware,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel, Field, SecretStr
from typing_extensions import TypedDict

from tests.support.apps import card
from tests.support.obliging import obliging, value_for
from xrouter_lg import ModelPool
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall

Ask = Callable[[BaseChatModel], Any]
AskAgent = Callable[[Any, Sequence[Any]], Any]
"""An agent of a model, with layers of somebody else's in between."""
MODEL = "gpt-4.1-mini"
"""One that LangChain has a profile of: an agent chooses by it how to ask for a schema."""
CARD = "one"
_RANDOM = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")


@tool
def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


@tool
def look_up(query: str) -> str:
    """Look something up."""
    return f"{query} is in Rome"


class Grade(BaseModel):
    """A grade."""

    text: str = Field(description="why")
    score: int


class Joke(TypedDict):
    """A joke."""

    setup: Annotated[str, ..., "the question"]
    punchline: str


def reply(body: dict[str, Any]) -> Reply | str:
    """Keeps to a schema; calls the tool that it is told to call, each tool whose name the question
    holds, once, and any tool where one is required; else it answers."""
    if body.get("response_format"):
        return obliging(body)
    messages, choice = body["messages"], body.get("tool_choice")
    offered = {tool["function"]["name"]: tool["function"] for tool in body.get("tools") or []}
    called = {c["function"]["name"] for m in messages for c in m.get("tool_calls") or []}
    text = " ".join(str(m["content"]) for m in messages if m["role"] == "user")
    wanted = [name for name in offered if name in text and name not in called]
    if isinstance(choice, dict):
        wanted = [choice["function"]["name"]]
    elif choice in ("required", "any") and not wanted:
        wanted = [name for name in offered if name not in called] or list(offered)
    if wanted and choice != "none":
        schema = offered[wanted[0]].get("parameters") or {}
        return Reply(tool_calls=[ToolCall(wanted[0], value_for(schema, schema, text))])
    last = messages[-1]
    return f"{last['role']} says {str(last['content'])[:60]}"


def plain(value: Any) -> Any:
    """Without what is new in every run, and without the route that comes with an answer."""
    if isinstance(value, BaseMessage):
        usage = dict(getattr(value, "usage_metadata", None) or {})
        usage.pop("total_cost", None)
        name = value.response_metadata.get("model_name", "")
        return {
            "type": value.type,
            "blocks": plain(value.content_blocks),
            "calls": plain(getattr(value, "tool_calls", [])),
            "usage": usage,
            "ending": value.response_metadata.get("finish_reason"),
            "model": {CARD: MODEL}.get(name, name),
        }
    if isinstance(value, BaseModel):
        return [type(value).__name__, plain(value.model_dump())]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in ("id", "xrouter")}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return _RANDOM.sub("*", value) if isinstance(value, str) else value


def tokens(graph: Any, asked: Any, config: Any = None) -> list[Any]:
    """Text and node of each token that a graph streams."""
    parts = graph.stream(asked, config, stream_mode="messages")
    return [(chunk.text, at["langgraph_node"]) for chunk, at in parts if chunk.text]


def one_by_one(runnable: Any, asked: Any) -> list[Any]:
    """The pieces of a stream; empty ones left out, since the last carries the route alone."""
    return [part for part in runnable.stream(asked) if part]


ASKED: dict[str, Ask] = {
    "text": lambda m: m.invoke("Hi"),
    "dicts": lambda m: m.invoke([{"role": "system", "content": "Be kind"}, ("human", "Hi")]),
    "two system messages": lambda m: m.invoke(
        [SystemMessage("a"), SystemMessage("b"), ("ai", "c")]
    ),
    "names": lambda m: m.invoke([HumanMessage("a", name="bob"), AIMessage("b", name="al")]),
    "stop": lambda m: m.bind(stop=["kind"]).invoke("Be kind"),
    "keywords": lambda m: m.invoke("Hi", seed=3, user="me", top_p=0.5, service_tier="flex"),
    "extra body": lambda m: m.bind(extra_body={"colour": 1}).invoke("Hi"),
    "temperature": lambda m: m.bind(temperature=0.2).invoke("Hi"),
    "a schema of its own": lambda m: (
        m.bind(response_format={"type": "json_object"}) | JsonOutputParser()
    ).invoke("As JSON"),
    "batch": lambda m: m.batch(["a", "b"], {"max_concurrency": 1}),
    "stream": lambda m: [chunk.text for chunk in m.stream("Hi there") if chunk.text],
    "one tool": lambda m: m.bind_tools([add]).invoke("add 3"),
    "no tool": lambda m: m.bind_tools([add], tool_choice="none").invoke("add 3"),
    "any tool": lambda m: m.bind_tools([add, look_up], tool_choice="any").invoke("Hi"),
    "that tool": lambda m: m.bind_tools([add, look_up], tool_choice="look_up").invoke("Hi"),
    "one at a time": lambda m: m.bind_tools([add], parallel_tool_calls=False).invoke("add 3"),
    "strictly": lambda m: m.bind_tools([add], strict=True).invoke("add 3"),
    "tools as the wire has them": lambda m: m.bind(
        tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        tool_choice="required",
        parallel_tool_calls=False,
    ).invoke("Hi"),
    "a tool streams": lambda m: plain(sum_of(m.bind_tools([add]).stream("add 3")).tool_calls),
}


def sum_of(chunks: Any) -> Any:
    first, *rest = chunks
    for chunk in rest:
        first = first + chunk
    return first


def structured(method: str | None, schema: Any, **options: Any) -> Ask:
    named: Any = {} if method is None else {"method": method}

    def ask(model: BaseChatModel) -> Any:
        asked = model.with_structured_output(schema, **named, **options)
        return [asked.invoke("'Good' 3, as JSON"), one_by_one(asked, "'Good' 3, as JSON")]

    return ask


METHODS = ("json_schema", "function_calling", "json_mode", None)
SCHEMAS: dict[str, Any] = {"class": Grade, "dict": Joke, "JSON": Grade.model_json_schema()}
ASKED |= {
    f"{name} by {method}": structured(method, schema)
    for name, schema in SCHEMAS.items()
    for method in METHODS
    if (name, method) != ("class", "json_mode")  # the fake's answer to it is no grade
}
ASKED |= {
    "strict class": structured("function_calling", Grade, strict=True),
    "class and raw": structured("function_calling", Grade, include_raw=True),
    "class beside tools": structured("json_schema", Grade, tools=[add], strict=True),
}


def by_hand(base_url: str, model: str = MODEL) -> ChatOpenAI:
    """What another model takes the place of."""
    return ChatOpenAI(
        model=model,
        base_url=base_url,
        api_key=SecretStr("any"),
        stream_usage=True,
        max_retries=0,
        profile=ChatOpenAI(model=MODEL, api_key=SecretStr("any")).profile,
    )


def one_card(fake: FakeOpenAIServer) -> ModelPool:
    """A pool in which nothing is left to choose, of the model that ``by_hand`` asks."""
    fake.add_model(FakeModel(name=MODEL, reply=reply))
    return ModelPool([card(fake, CARD, model=MODEL)])


def told_and_sent(ask: Ask, model: BaseChatModel, fake: FakeOpenAIServer) -> tuple[Any, Any]:
    """What comes of it, and the bodies of the requests that reached the worker."""
    before = len(fake.requests)
    told = plain(ask(model))
    bodies = [json.dumps(request.body) for request in fake.requests[before:]]
    # The worker numbers the calls of tools by its requests.
    bodies = [re.sub(r"call_[0-9]+_", "call_*_", _RANDOM.sub("*", body)) for body in bodies]
    assert bodies
    return told, [json.loads(body) for body in bodies]


def supervisor(model: BaseChatModel) -> Any:
    made = pytest.importorskip("langgraph_supervisor")
    counts = create_agent(model, tools=[add], name="counts", system_prompt="You count")
    looks = create_agent(model, tools=[look_up], name="looks", system_prompt="You look")
    team = made.create_supervisor([counts, looks], model=model, prompt="You lead").compile()
    asked = "transfer_to_looks to look_up, then transfer_to_counts to add 3"
    return team.invoke({"messages": asked})["messages"]


def swarm(model: BaseChatModel) -> Any:
    made = pytest.importorskip("langgraph_swarm")
    to_bob = made.create_handoff_tool(agent_name="bob")
    al = create_agent(model, tools=[add, to_bob], name="al", system_prompt="You are Al")
    bob = create_agent(model, tools=[look_up], name="bob", system_prompt="You are Bob")
    graph = made.create_swarm([al, bob], default_active_agent="al")
    app, thread = graph.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "1"}}
    first = app.invoke({"messages": "transfer_to_bob"}, thread)
    return [first, tokens(app, {"messages": "Hi again"}, thread)]


def deep(model: BaseChatModel) -> Any:
    made = pytest.importorskip("deepagents")
    critic = {"name": "critic", "description": "criticises", "system_prompt": "You criticise"}
    agent = made.create_deep_agent(model=model, tools=[look_up], subagents=[critic])
    return agent.invoke({"messages": "write_todos, then look_up, then task 'critic'"})["messages"]


def rag(model: BaseChatModel) -> Any:
    prompt = ChatPromptTemplate.from_template("By {context}, {question}")
    given = {"context": lambda _: "cats purr", "question": RunnablePassthrough()}
    chain = given | prompt | model | StrOutputParser()
    kept = model.with_retry(stop_after_attempt=2).with_fallbacks([model])
    return [chain.invoke("a"), one_by_one(chain, "b"), chain.batch(["c"]), kept.invoke("d")]


def functional(model: BaseChatModel) -> Any:
    @task
    def essay(topic: str) -> str:
        return model.invoke(f"An essay on {topic}").text

    @entrypoint(checkpointer=InMemorySaver())
    def flow(topic: str) -> Any:
        written = essay(topic).result()
        return [written, interrupt({"written": written})]

    thread: Any = {"configurable": {"thread_id": "1"}}
    resumed: Any = Command(resume="good")
    return [tokens(flow, "cats", thread), flow.invoke(resumed, thread)]


def asked_and_streamed(agent: Any) -> Any:
    asked = {"messages": "write_todos, then add 3 'x'"}
    return [agent.invoke(asked), tokens(agent, asked)]


def answers(strategy: Any) -> AskAgent:
    return lambda model, layers: asked_and_streamed(
        create_agent(model, tools=[add], middleware=layers, response_format=strategy)
    )


class Overridden(AgentMiddleware[Any, Any, Any]):
    """Changes what each model call is asked with."""

    def __init__(self, **changes: Any) -> None:
        super().__init__()
        self.changes = changes

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(**self.changes))


def with_layers(*before: Any, behind: Sequence[Any] = ()) -> AskAgent:
    return lambda model, layers: asked_and_streamed(
        create_agent(
            model,
            tools=[add, look_up],
            system_prompt="You help",
            middleware=[*before, *layers, *behind],
        )
    )


_SETTINGS = Overridden(model_settings={"temperature": 0.3, "parallel_tool_calls": False})
_CHOICE = Overridden(tool_choice="none", system_message=SystemMessage("You only talk"))
_EDITS = ContextEditingMiddleware(edits=[ClearToolUsesEdit(trigger=1, keep=0)])

AGENTS: dict[str, AskAgent] = {
    "structured by tool": answers(ToolStrategy(Grade)),
    "structured by provider": answers(ProviderStrategy(Grade)),
    "structured by either": answers(Grade),
    "todos": with_layers(TodoListMiddleware()),
    "todos behind": with_layers(behind=[TodoListMiddleware()]),
    "settings": with_layers(_SETTINGS),
    "settings behind": with_layers(behind=[_SETTINGS]),
    "choice": with_layers(_CHOICE),
    "choice behind": with_layers(behind=[_CHOICE]),
    "edits": with_layers(_EDITS),
    "picks": lambda model, layers: with_layers(
        LLMToolSelectorMiddleware(model=model, max_tools=1, always_include=["add"])
    )(model, layers),
    "bound": lambda model, layers: answers(None)(model.bind(temperature=0.3), layers),
}
"""Agents with other layers before and behind those that they are given."""


def workers(model: BaseChatModel) -> Any:
    """A plan by a schema, then one worker for each of its parts."""

    class Plan(BaseModel):
        kind: Literal["poem", "story"]

    class Work(TypedDict):
        part: str

    planner: Any = model.with_structured_output(Plan)
    builder = StateGraph(MessagesState)
    builder.add_node("plan", lambda state: {"messages": [("ai", planner.invoke("Plan").kind)]})

    def write(state: Work) -> Any:
        return {"messages": [model.invoke(f"Write {state['part']}")]}

    builder.add_node("write", write)
    builder.add_edge(START, "plan")
    builder.add_conditional_edges("plan", lambda _: [Send("write", {"part": "a"})], ["write"])
    graph: Any = builder.compile()
    return [graph.invoke({"messages": "Go"})["messages"], tokens(graph, {"messages": "Go"})]


def _without_layers(ask: AskAgent) -> Ask:
    return lambda model: ask(model, [])


APPS: dict[str, Ask] = {
    "supervisor": supervisor,
    "swarm": swarm,
    "deep agent": deep,
    "RAG": rag,
    "functional": functional,
    "workers": workers,
} | {f"agent, {name}": _without_layers(ask) for name, ask in AGENTS.items()}
