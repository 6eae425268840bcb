"""The graphs that the benchmarks compare: hand-written ones, and ours around the same models."""

from __future__ import annotations

import operator
from typing import Annotated, Any, TypedDict

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Send

from xrouter_lg import ModelCard, ModelPool

App = CompiledStateGraph[Any, Any, Any, Any]


class InstantChat(BaseChatModel):
    """A chat model that answers at once: what is left is the framework's own time."""

    @property
    def _llm_type(self) -> str:
        return "instant"

    def _generate(self, *args: Any, **kwargs: Any) -> ChatResult:
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        message = AIMessage("Paris.", usage_metadata=usage)
        return ChatResult(generations=[ChatGeneration(message=message)])

    async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
        return self._generate()


class _State(TypedDict, total=False):
    messages: list[AnyMessage]
    plan: list[str]
    results: Annotated[list[Any], operator.add]


def hand_written(models: dict[str, BaseChatModel], choose: str) -> App:
    """What somebody writes who routes by hand: three nodes, fan-out by ``Send``."""

    async def route(state: _State) -> _State:
        return {"plan": [choose]}

    def fan_out(state: _State) -> list[Send]:
        return [Send(f"call_{name}", {"messages": state["messages"]}) for name in state["plan"]]

    def caller(model: BaseChatModel) -> Any:
        async def call(state: _State) -> _State:
            return {"results": [await model.ainvoke(state["messages"])]}

        return call

    async def finish(state: _State) -> _State:
        return {"messages": [state["results"][0]]}

    graph = StateGraph(_State)
    graph.add_node("route", route)
    graph.add_node("finish", finish)
    names = [f"call_{name}" for name in models]
    for name, model in models.items():
        graph.add_node(f"call_{name}", caller(model))
        graph.add_edge(f"call_{name}", "finish")
    graph.add_edge(START, "route")
    graph.add_conditional_edges("route", fan_out, names)
    graph.add_edge("finish", END)
    return graph.compile()


def app_around(node: Any) -> App:
    """An app whose only node is the one under test."""
    graph = StateGraph(MessagesState)
    graph.add_node("model", node)
    graph.add_edge(START, "model")
    graph.add_edge("model", END)
    return graph.compile()


def plain_node(model: BaseChatModel) -> Any:
    """The node of an app that does not route."""

    async def call(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return call


def instant_pool() -> ModelPool:
    """Two cards over instant models, priced."""
    return ModelPool(
        [
            ModelCard(name="small", model=InstantChat(), price={"input": 0.1, "output": 0.2}),
            ModelCard(name="large", model=InstantChat(), price={"input": 1, "output": 2}),
        ],
        default="small",
    )


def pool_at(base_url: str) -> ModelPool:
    """Two cards of one server, one ten times as dear; nothing is retried."""
    return ModelPool(
        [
            ModelCard(
                name=name,
                model=name,
                base_url=base_url,
                price={"input": price, "output": 4 * price},
                max_retries=0,
                timeout_s=120,
            )
            for name, price in (("small", 0.1), ("large", 1.0))
        ],
        default="small",
    )
