"""Local models as a pool: start the servers, measure their prices, describe them as cards.

The configuration has the shape of a pool file (``pool.yaml``); this module neither reads nor
builds the router's own pool.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .catalogue import chat_template_path, get_weights
from .measure import DEFAULT_USD_PER_HOUR, measured_throughput, token_price
from .server import LlamaCppServer
from .weights import Source, fetch

DEFAULT_MODELS: Mapping[str, str] = {
    "small": "qwen2.5-coder-0.5b",
    "large": "qwen2.5-coder-1.5b",
}
"""Card name -> weights name; the last card is the pool's default."""


@dataclass(frozen=True, slots=True)
class LocalPool:
    """Running servers and the pool configuration that points at them."""

    config: dict[str, Any]
    """The content of a pool file: ``default`` and ``models``."""
    servers: Mapping[str, LlamaCppServer]
    """By card name."""

    def to_yaml(self) -> str:
        """:attr:`config` as the text of a pool file."""
        import yaml

        return yaml.safe_dump(self.config, sort_keys=False, allow_unicode=True)


@contextlib.contextmanager
def local_pool(
    models: Mapping[str, str] = DEFAULT_MODELS,
    *,
    usd_per_hour: float = DEFAULT_USD_PER_HOUR,
    n_ctx: int = 4096,
    threads: int | None = None,
    max_output_tokens: int = 512,
    cache_dir: Path | None = None,
    source: Source = "auto",
    progress: bool = True,
    refresh: bool = False,
) -> Iterator[LocalPool]:
    """Fetch, start and price ``models``; the servers stop when the block ends.

    Args:
        models: card name -> weights name; the last is the default card.
        usd_per_hour: what the machine costs; prices follow from it (see :mod:`.measure`).
        n_ctx: context of each request in tokens.
        threads: CPU threads of each model; by default they share the cores, for a fan-out runs
            them at the same time.
        max_output_tokens: what the cards declare.
        cache_dir: replaces the cache root.
        source: where missing weights come from.
        progress: show download bars.
        refresh: measure tokens per second again instead of using the recorded figures.

    Raises:
        UnknownWeightsError: a name that the catalogue does not have, before anything starts.
        LocalModelError: a download, start or measurement failed; nothing is left running.
    """
    if not models:
        raise ValueError("a local pool needs at least one model, e.g. {'small': 'smollm2-135m'}")
    chosen = {card: get_weights(name) for card, name in models.items()}
    if threads is None:
        threads = max(1, (os.cpu_count() or 1) // max(2, len(chosen)))
    with contextlib.ExitStack() as stack:
        servers: dict[str, LlamaCppServer] = {}
        cards: list[dict[str, Any]] = []
        for card, weights in chosen.items():
            path = fetch(weights.name, cache_dir=cache_dir, source=source, progress=progress)
            server = LlamaCppServer(
                path,
                name=weights.name,
                n_ctx=n_ctx,
                threads=threads,
                chat_template=chat_template_path(weights),
            )
            # Measured before the next one starts: each rate is that of the model alone.
            servers[card] = stack.enter_context(server)
            throughput = measured_throughput(
                server, sha256=weights.sha256, cache_dir=cache_dir, refresh=refresh
            )
            price = token_price(throughput, usd_per_hour=usd_per_hour)
            cards.append(
                {
                    "name": card,
                    "model": f"openai:{weights.name}",
                    "base_url": server.base_url,
                    "price": asdict(price),
                    "context_window": min(n_ctx, weights.context_window),
                    "max_output_tokens": max_output_tokens,
                    "capabilities": list(weights.capabilities),
                    "description": weights.description,
                }
            )
        yield LocalPool(config={"default": cards[-1]["name"], "models": cards}, servers=servers)
