"""Tools bound to the chat model: in OpenAI's format for whoever looks, as given for the worker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xrouter_lg.graph.bound import ToolBinding, shown_tools


class BoundTool(dict[str, Any]):
    """A tool in OpenAI's format, which agents read the names of bound tools from, with the tool
    that the app gave."""

    given: Any


class BoundTools(list[BoundTool]):
    """The tools of one ``bind_tools``, and which keywords were given beside them."""

    def __init__(self, tools: Sequence[Any], options: Mapping[str, Any]) -> None:
        for tool, shown in zip(tools, shown_tools(tools), strict=True):
            entry = BoundTool(shown)
            entry.given = tool
            self.append(entry)
        self.options = frozenset(options)

    def binding(self, options: Mapping[str, Any], **more: Any) -> ToolBinding:
        """What the steps of a request take."""
        return ToolBinding(
            tuple(tool.given for tool in self),
            options=tuple(options.items()),
            listed=True,
            **more,
        )
