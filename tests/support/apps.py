"""Pools and apps that many tests start from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.state import CompiledStateGraph

from xrouter_lg import Action, ModelCard, ModelPool, Proposal, RouteRequest
from xrouter_lg.testing import FakeOpenAIServer, ScriptedChatModel, Usage

PRICES: dict[str, dict[str, str]] = {
    "small": {"input": "1", "output": "2"},
    "medium": {"input": "3", "output": "7"},
    "large": {"input": "10", "cached_input": "5", "output": "30", "reasoning": "40"},
    "guide": {"input": "0.5", "output": "0.5"},
}
"""USD per million tokens."""

Graph = CompiledStateGraph[Any, Any, Any, Any]


def card(server: FakeOpenAIServer, name: str, **options: Any) -> ModelCard:
    """A card that calls the fake server; one attempt unless told otherwise."""
    return ModelCard(
        **{
            "name": name,
            "model": name,
            "base_url": server.base_url,
            "price": PRICES.get(name),
            "max_retries": 0,
            "timeout_s": 10.0,
            **options,
        }
    )


def pool(server: FakeOpenAIServer, *names: str, **options: Any) -> ModelPool:
    """Cards on the fake server, the first one the default."""
    per_card = {key: options.pop(key) for key in ("max_retries", "timeout_s") if key in options}
    return ModelPool([card(server, n, **per_card) for n in names or ("small", "large")], **options)


def scripted(name: str, script: Any = None, **options: Any) -> ModelCard:
    """A card inside the process."""
    model_options = {k: options.pop(k) for k in ("delay_s",) if k in options}
    model = ScriptedChatModel(
        script if script is not None else (lambda messages: f"{name} answers"),
        model_name=name,
        **model_options,
    )
    return ModelCard(
        **{"name": name, "model": model, "price": PRICES.get(name), "max_retries": 0, **options}
    )


def app(node: Any, checkpointer: Any = None, *, state: Any = MessagesState) -> Graph:
    """START → model → END, as an app that knows nothing of routing has it."""
    builder = StateGraph(state)
    builder.add_node("model", node)
    builder.add_edge(START, "model")
    builder.add_edge("model", END)
    return builder.compile(checkpointer=checkpointer)


def ask(text: str = "What is the capital of France?") -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def options(**configurable: Any) -> Any:
    return {"configurable": configurable}


def answer(state: Mapping[str, Any]) -> AIMessage:
    message = state["messages"][-1]
    assert isinstance(message, AIMessage)
    return message


def record(state: Mapping[str, Any]) -> dict[str, Any]:
    """The route record of an app's last message."""
    found: dict[str, Any] = answer(state).response_metadata["xrouter"]
    return found


def usd(usage: Usage, price: Mapping[str, str]) -> Decimal:
    """What a bill line costs, worked out apart from the library."""
    plain_in = usage.prompt_tokens - usage.cached_tokens
    plain_out = usage.completion_tokens - usage.reasoning_tokens
    rate = {key: Decimal(value) for key, value in price.items()}
    return (
        plain_in * rate["input"]
        + usage.cached_tokens * rate.get("cached_input", rate["input"])
        + plain_out * rate["output"]
        + usage.reasoning_tokens * rate.get("reasoning", rate["output"])
    ) / 1_000_000


def true_cost(server: FakeOpenAIServer) -> Decimal:
    """The server's own bill in USD, by the prices above."""
    return sum((usd(line.usage, PRICES[line.model]) for line in server.bill), Decimal(0))


class Says:
    """A stranger's policy: no base class, and whatever the test wants it to propose."""

    name, version = "says", "7"

    def __init__(
        self, propose: Callable[[RouteRequest, Sequence[ModelCard]], Any], **attributes: Any
    ) -> None:
        self._propose = propose
        self.asked: list[RouteRequest] = []
        for key, value in attributes.items():
            setattr(self, key, value)

    async def propose(self, request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        self.asked.append(request)
        proposed = self._propose(request, candidates)
        if hasattr(proposed, "__await__"):
            proposed = await proposed
        return proposed  # type: ignore[no-any-return]


def prefers(*names: str) -> Says:
    """A policy with this order of preference."""

    def propose(request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        weights = {name: 2.0 ** -(place + 1) for place, name in enumerate(names)}
        return Proposal({c.name: weights.get(c.name, 0.0) for c in candidates}, reason="prefers")

    return Says(propose)


def calls(*actions: str | Action, **attributes: Any) -> Says:
    """A policy that makes these calls in parallel on its first turn."""
    made = tuple(Action("call", card=a) if isinstance(a, str) else a for a in actions)

    def propose(request: RouteRequest, candidates: Sequence[ModelCard]) -> Proposal:
        return Proposal({c.name: 0.1 for c in candidates}, actions=made, reason="calls")

    return Says(propose, **attributes)
