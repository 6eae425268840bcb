"""A node that LangGraph takes for the graph that it runs: it is drawn and looked into."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.graph import Graph
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel.protocol import PregelProtocol
from langgraph.types import StateSnapshot, StateUpdate


class DrawnNode(PregelProtocol[Any, Any, Any, Any]):
    """What LangGraph asks of a graph inside a graph, answered by :attr:`graph`: ``xray`` draws its
    nodes, ``get_state(subgraphs=True)`` looks into it while it is interrupted. How it is invoked is
    the subclass's own affair, and so is all else that a runnable can do."""

    @property
    @abstractmethod
    def graph(self) -> CompiledStateGraph[Any, Any, Any, Any]:
        """What runs inside."""

    def get_graph(self, config: RunnableConfig | None = None, *, xray: int | bool = False) -> Graph:
        return self.graph.get_graph(config, xray=xray)

    async def aget_graph(
        self, config: RunnableConfig | None = None, *, xray: int | bool = False
    ) -> Graph:
        return await self.graph.aget_graph(config, xray=xray)

    def get_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        return self.graph.get_state(config, subgraphs=subgraphs)

    async def aget_state(self, config: RunnableConfig, *, subgraphs: bool = False) -> StateSnapshot:
        return await self.graph.aget_state(config, subgraphs=subgraphs)

    def get_state_history(self, config: RunnableConfig, **which: Any) -> Iterator[StateSnapshot]:
        return self.graph.get_state_history(config, **which)

    def aget_state_history(
        self, config: RunnableConfig, **which: Any
    ) -> AsyncIterator[StateSnapshot]:
        return self.graph.aget_state_history(config, **which)

    def bulk_update_state(
        self, config: RunnableConfig, updates: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        return self.graph.bulk_update_state(config, updates)

    async def abulk_update_state(
        self, config: RunnableConfig, updates: Sequence[Sequence[StateUpdate]]
    ) -> RunnableConfig:
        return await self.graph.abulk_update_state(config, updates)

    def update_state(
        self, config: RunnableConfig, values: Any, as_node: str | None = None
    ) -> RunnableConfig:
        return self.graph.update_state(config, values, as_node)

    async def aupdate_state(
        self, config: RunnableConfig, values: Any, as_node: str | None = None
    ) -> RunnableConfig:
        return await self.graph.aupdate_state(config, values, as_node)

    # As every runnable does it: nothing of it is a graph's.

    def with_config(self, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        return Runnable.with_config(self, config, **kwargs)

    def stream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> Iterator[Any]:
        return Runnable.stream(self, input, config, **kwargs)

    def astream(
        self, input: Any, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        return Runnable.astream(self, input, config, **kwargs)
