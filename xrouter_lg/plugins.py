"""What other installed packages bring, by Python's entry points.

A package declares in its ``pyproject.toml``::

    [project.entry-points."xrouter_lg.policies"]
    by_topic = "their_package.policies:ByTopic"

and ``policy="by_topic"``, or ``policy="by_topic:argument"``, is that policy everywhere. Verifiers,
trace sources and stores are brought in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points

POLICIES = "xrouter_lg.policies"
"""Names to what makes a policy, called with the text behind the colon if there is one."""

VERIFIERS = "xrouter_lg.verifiers"
"""Names to subclasses of :class:`xrouter_lg.verifiers.Verifier`."""

TRACE_SOURCES = "xrouter_lg.trace_sources"
"""Names to what gives runs in LangSmith's schema, called with the text behind the colon:
``xrouter traces import NAME:TEXT``."""

STORES = "xrouter_lg.stores"
"""Schemes to what gives the path or URL of a trace store, called with the whole URL:
``scheme://...`` is then a store wherever one is named."""


def plugin(group: str, name: str) -> EntryPoint | None:
    """The entry point of that name, not loaded yet; None where no package brings it."""
    return next((found for found in _all(group) if found.name == name), None)


def plugin_names(group: str) -> Sequence[str]:
    """Every name of a group."""
    return sorted({found.name for found in _all(group)})


@lru_cache(maxsize=8)
def _all(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))
