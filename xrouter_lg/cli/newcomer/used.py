"""The models that an app has called so far, out of its own traces."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from xrouter_lg.cli.newcomer.providers import PROVIDERS
from xrouter_lg.episodes.plain_calls import innermost_models
from xrouter_lg.episodes.runs import model_of
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.pool.pricing import Price, published_price
from xrouter_lg.pool.profiles import Profile, profile_of
from xrouter_lg.said import metadata_of, run_usage
from xrouter_lg.tracing.store.trace_store import TraceStore
from xrouter_lg.types import TokenUsage

MOST = 12
"""Models in a first pool, the most called ones."""


@dataclass(frozen=True)
class UsedModel:
    """A model, and what it was called for."""

    provider: str | None
    """As LangChain calls it; None where no trace tells."""
    model: str
    calls: int
    input_tokens: float | None
    """Mean of a call; None where no usage was recorded."""
    output_tokens: float | None

    @property
    def price(self) -> Price | None:
        """The published one."""
        return None if self.provider is None else published_price(self.provider, self.model)

    @property
    def profile(self) -> Profile | None:
        return profile_of(self.provider, self.model)

    @property
    def usd(self) -> float | None:
        """Mean of a call at the published price; None where that or the tokens are unknown."""
        price = self.price
        if price is None or self.input_tokens is None or self.output_tokens is None:
            return None
        usage = TokenUsage(round(self.input_tokens), round(self.output_tokens))
        return float(price.at(usage.input_tokens).cost(usage))


def used_models(store: TraceStore, since: datetime | None, project: str | None) -> list[UsedModel]:
    """The models of a store's traces, the most called first. A model that wraps others is none.

    Raises:
        ConfigurationError: no trace has a model's run.
    """
    calls: dict[tuple[str | None, str], list[TokenUsage | None]] = {}
    traces = 0
    for trace in store.iter_traces(since=since, project=project):
        traces += 1
        for run in innermost_models(trace.runs):
            key = _provider(metadata_of(run).get("ls_provider")), model_of(run)
            calls.setdefault(key, []).append(run_usage(run))
    if not calls:
        raise ConfigurationError(
            f"no model was called in {traces} traces; name another store, project or a longer "
            "--since, or leave traces out: `xrouter init` looks for keys then"
        )
    found = [_used(provider, model, seen) for (provider, model), seen in calls.items()]
    return sorted(found, key=lambda one: (-one.calls, one.model))


def _provider(told: Any) -> str | None:
    """LangChain's name of a provider, if it has a package by which it can be called."""
    if not isinstance(told, str) or not told.isidentifier():
        return None
    named = any(own.name == told for own in PROVIDERS)
    return told if named or importlib.util.find_spec(f"langchain_{told}") else None


def _used(provider: str | None, model: str, seen: list[TokenUsage | None]) -> UsedModel:
    known = [usage for usage in seen if usage is not None]

    def mean(values: list[int]) -> float | None:
        return sum(values) / len(values) if values else None

    return UsedModel(
        provider,
        model,
        len(seen),
        mean([usage.input_tokens for usage in known]),
        mean([usage.output_tokens for usage in known]),
    )


@contextmanager
def pulled(project: str, since: datetime) -> Iterator[TraceStore]:
    """A project's traces out of LangSmith, in a store that is gone afterwards.

    Raises:
        LangSmithError: they can't be read.
    """
    from xrouter_lg.langsmith.connection import LangSmith
    from xrouter_lg.langsmith.options import PullOptions
    from xrouter_lg.langsmith.pull import pull

    with (
        tempfile.TemporaryDirectory(prefix="xrouter-init-") as folder,
        LangSmith() as langsmith,
        TraceStore(Path(folder) / "traces.db") as store,
    ):
        pull(project, store, PullOptions(since=since), langsmith=langsmith)
        yield store
