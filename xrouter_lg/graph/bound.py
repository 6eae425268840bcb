"""Tools that the app bound, in any shape, and what policies, prompts and estimates see of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from xrouter_lg.calls.worker.parameters import ForeignSettings
from xrouter_lg.calls.worker.structured import Structured


@dataclass(frozen=True, slots=True)
class ToolBinding:
    """The app's own tools and options (``tool_choice``, ``strict`` ...), which reach the worker's
    own ``bind_tools`` as they are; options without tools reach its ``bind``. ``needs`` are
    capabilities that a card must have beyond those that the request shows. ``structured`` is what
    the answer shall be read as, ``settings`` are fields of the worker's chat model to set
    otherwise (``cache``, ``output_version``), ``foreign`` keywords for cards of one class.
    ``listed``: whether there was a list of tools, which may be an empty one."""

    tools: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    needs: frozenset[str] = frozenset()
    structured: Structured | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    foreign: ForeignSettings | None = None
    listed: bool = False


def shown_tools(tools: Iterable[Any]) -> tuple[Mapping[str, Any], ...]:
    """Tools in OpenAI's format, JSON-safe. The worker gets them as they were given; this form is
    for estimates and prompts alone, so that a tool that no format is known for (a provider's own,
    one of a newer kind) stands there by its name and its text."""
    return tuple(_shown(tool) for tool in tools)


def form_needed(bound: Mapping[str, Any]) -> frozenset[str]:
    """A schema that the provider shall keep to is a capability; the mere word JSON is none."""
    form = bound.get("response_format")
    named = form.get("type") if isinstance(form, Mapping) else None
    asked = form is not None and named not in ("json_object", "text")
    return frozenset({"structured_output"}) if asked else frozenset()


def _shown(tool: Any) -> Mapping[str, Any]:
    try:
        found = convert_to_openai_tool(tool)
    except Exception:  # whatever it is, the model's own class may know it
        found = {}
    if not isinstance(found.get("function"), Mapping):
        found = {"type": "function", "function": _by_text(tool)}
    plain: Mapping[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _by_text(tool: Any) -> dict[str, Any]:
    if isinstance(tool, Mapping):
        name = tool.get("name") or tool.get("type") or "tool"
        described = str(tool.get("description") or name)
        return {"name": str(name), "description": described, "parameters": dict(tool)}
    name = getattr(tool, "name", None) or type(tool).__name__
    return {"name": str(name), "description": str(tool)}
