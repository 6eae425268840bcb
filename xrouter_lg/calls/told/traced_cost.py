"""Tracers are told what an answer has cost, in the fields that LangSmith has for it.

LangSmith reads ``input_cost``, ``output_cost`` and ``total_cost`` (USD, numbers) beside the token
counts of a model's run, and prices a run without them by a list of its own. They are put into what
tracers get, never into the message: LangChain can't add up counts that hold fractions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import RunnableConfig
from langchain_core.tracers import LangChainTracer

from xrouter_lg.calls.money import AS_TOLD, AsAsked, cost_of
from xrouter_lg.calls.told.stream_watch import handlers_of
from xrouter_lg.pool.card import ModelCard
from xrouter_lg.pool.served import price_as_served
from xrouter_lg.said import served_model, served_tier
from xrouter_lg.tracing.record.recorder import Recorder


def with_traced_cost(
    config: RunnableConfig, card: ModelCard, pool: Iterable[ModelCard], asked: AsAsked = AS_TOLD
) -> RunnableConfig:
    """A copy of the config whose LangSmith tracer and recorder add a call's cost to its run."""
    callbacks = config.get("callbacks")
    told = LangChainTracer | Recorder
    if callbacks is None or not any(isinstance(h, told) for h in handlers_of(config)):
        return config
    if isinstance(callbacks, list):
        return {
            **config,
            "callbacks": [_told(handler, card, pool, asked) for handler in callbacks],
        }
    copied = callbacks.copy()
    found = {
        id(h): _told(h, card, pool, asked) for h in (*copied.handlers, *copied.inheritable_handlers)
    }
    copied.handlers = [found[id(handler)] for handler in copied.handlers]
    copied.inheritable_handlers = [found[id(handler)] for handler in copied.inheritable_handlers]
    return {**config, "callbacks": copied}


def costs_of(
    message: AIMessage, card: ModelCard, pool: Iterable[ModelCard], asked: AsAsked = AS_TOLD
) -> dict[str, float]:
    """LangSmith's cost fields for an answer; empty where nobody knows what it cost. A sum that the
    provider itself named is not split into sides."""
    usage, price = asked.usage(message), price_as_served(card, served_model(message), pool)
    cost, source = cost_of(message, usage, price)
    if cost is None:
        return {}
    found = {"total_cost": float(cost)}
    if usage is not None and price is not None and source != "provider":
        prompt = replace(
            usage,
            output_tokens=0,
            reasoning_tokens=0,
            kinds={k: n for k, n in usage.kinds.items() if k.startswith(("input_", "cache_"))},
            unknown={k: n for k, n in usage.unknown.items() if k.startswith("input_")},
        )
        inputs = price.in_tier(served_tier(message)).cost(prompt)
        found |= {"input_cost": float(inputs), "output_cost": float(cost - inputs)}
    return found


def _told(handler: object, card: ModelCard, pool: Iterable[ModelCard], asked: AsAsked) -> Any:
    """The handler, or one that is a tracer in everything but knows this card."""
    if not isinstance(handler, LangChainTracer | Recorder):
        return handler
    kind: Any = getattr(type(handler), "_tells_for", type(handler))
    # LangChain's tracers are never copied: copy.copy gives the tracer itself. All state stays
    # shared; what is this call's own lies in a slot beside it.
    told = object.__new__(_telling(kind))
    told.__dict__ = handler.__dict__
    told._called = (card, pool, asked)
    return told


@lru_cache(maxsize=32)
def _telling(kind: Any) -> Any:
    def on_llm_end(self: Any, response: LLMResult, **kwargs: Any) -> Any:
        return kind.on_llm_end(self, _with_costs(response, *self._called), **kwargs)

    def copy_with_metadata_defaults(self: Any, **kwargs: Any) -> Any:
        # LangChain makes a tracer anew for a run with metadata of its own.
        return _told(kind.copy_with_metadata_defaults(self, **kwargs), *self._called)

    body = {
        "__slots__": ("_called",),
        "__module__": kind.__module__,
        "_tells_for": kind,
        "on_llm_end": on_llm_end,
        "copy_with_metadata_defaults": copy_with_metadata_defaults,
    }
    return type(kind.__name__, (kind,), body)


def _with_costs(
    response: LLMResult, card: ModelCard, pool: Iterable[ModelCard], asked: AsAsked
) -> LLMResult:
    """A copy of the response with its cost, where it has one answer and that was counted."""
    generations = [one for batch in response.generations for one in batch]
    if len(generations) != 1 or not isinstance(generations[0], ChatGeneration):
        return response
    message = generations[0].message
    if not isinstance(message, AIMessage) or not message.usage_metadata:
        return response
    costs = costs_of(message, card, pool, asked)
    if not costs:
        return response
    counted = message.model_copy(update={"usage_metadata": {**message.usage_metadata, **costs}})
    generation = generations[0].model_copy(update={"message": counted})
    return response.model_copy(update={"generations": [[generation]]})
