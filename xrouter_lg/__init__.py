"""Learned, cost-aware model routing for LangGraph.

The public names are resolved on first use, so that ``import xrouter_lg`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from xrouter_lg.calls.ledger import Budget
    from xrouter_lg.graph.add_router import add_router, build_router_graph
    from xrouter_lg.graph.node import XRouterNode
    from xrouter_lg.policies.base import BasePolicy, Policy
    from xrouter_lg.policies.chat import PromptedPolicy
    from xrouter_lg.pool.pool import ModelCard, ModelPool
    from xrouter_lg.pool.pricing import Price
    from xrouter_lg.routing.router import Router
    from xrouter_lg.tracing.record.recorder import Recorder
    from xrouter_lg.tracing.store.trace_store import TraceStore
    from xrouter_lg.types import Action, Proposal, RouteRecord, RouteRequest

_HOME = {
    "Action": "types",
    "BasePolicy": "policies.base",
    "Budget": "calls.ledger",
    "ModelCard": "pool.pool",
    "ModelPool": "pool.pool",
    "Policy": "policies.base",
    "Price": "pool.pricing",
    "PromptedPolicy": "policies.chat",
    "Proposal": "types",
    "Recorder": "tracing.record.recorder",
    "RouteRecord": "types",
    "RouteRequest": "types",
    "Router": "routing.router",
    "TraceStore": "tracing.store.trace_store",
    "XRouterNode": "graph.node",
    "add_router": "graph.add_router",
    "build_router_graph": "graph.add_router",
}

__all__ = [
    "Action",
    "BasePolicy",
    "Budget",
    "ModelCard",
    "ModelPool",
    "Policy",
    "Price",
    "PromptedPolicy",
    "Proposal",
    "Recorder",
    "RouteRecord",
    "RouteRequest",
    "Router",
    "TraceStore",
    "XRouterNode",
    "add_router",
    "build_router_graph",
]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'xrouter_lg' has no attribute {name!r}")
    value = getattr(import_module(f"xrouter_lg.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
