"""Learned, cost-aware model routing for LangGraph.

The public names are resolved on first use, so that ``import xrouter_lg`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from xrouter_lg.calls.ledger import Budget as Budget
    from xrouter_lg.chat.middleware import XRouterMiddleware as XRouterMiddleware
    from xrouter_lg.chat.model import ChatXRouter as ChatXRouter
    from xrouter_lg.graph.add_router import add_router as add_router
    from xrouter_lg.graph.add_router import build_router_graph as build_router_graph
    from xrouter_lg.graph.node import XRouterNode as XRouterNode
    from xrouter_lg.policies.base import BasePolicy as BasePolicy
    from xrouter_lg.policies.base import Policy as Policy
    from xrouter_lg.policies.chat import PromptedPolicy as PromptedPolicy
    from xrouter_lg.pool.card import ModelCard as ModelCard
    from xrouter_lg.pool.pool import ModelPool as ModelPool
    from xrouter_lg.pool.pricing import Price as Price
    from xrouter_lg.route_record import RouteRecord as RouteRecord
    from xrouter_lg.routing.exploration import Exploration as Exploration
    from xrouter_lg.routing.router import Router as Router
    from xrouter_lg.tracing.record.recorder import Recorder as Recorder
    from xrouter_lg.tracing.store.trace_store import TraceStore as TraceStore
    from xrouter_lg.types import Action as Action
    from xrouter_lg.types import Proposal as Proposal
    from xrouter_lg.types import RouteRequest as RouteRequest

_HOME = {
    "Action": "types",
    "BasePolicy": "policies.base",
    "Budget": "calls.ledger",
    "ChatXRouter": "chat.model",
    "Exploration": "routing.exploration",
    "ModelCard": "pool.card",
    "ModelPool": "pool.pool",
    "Policy": "policies.base",
    "Price": "pool.pricing",
    "PromptedPolicy": "policies.chat",
    "Proposal": "types",
    "Recorder": "tracing.record.recorder",
    "RouteRecord": "route_record",
    "RouteRequest": "types",
    "Router": "routing.router",
    "TraceStore": "tracing.store.trace_store",
    "XRouterMiddleware": "chat.middleware",
    "XRouterNode": "graph.node",
    "add_router": "graph.add_router",
    "build_router_graph": "graph.add_router",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'xrouter_lg' has no attribute {name!r}")
    value = getattr(import_module(f"xrouter_lg.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
