"""The three models as a pool: replayed, or live on this machine."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from integrations.demo.questions import History
from integrations.demo.recorded.build import read_prices
from integrations.demo.replay import replay_server
from integrations.llama_cpp.catalogue import get_weights
from xrouter_lg import ModelPool

CARDS = {
    "tiny": "smollm2-135m",
    "small": "qwen2.5-coder-0.5b",
    "large": "qwen2.5-coder-1.5b",
}
"""Card → model, cheapest first; the last is the pool's default."""
ANSWER_TOKENS = 96
"""Longest answer; no recorded one is longer."""


@contextlib.contextmanager
def replayed(history: History, pool_file: Path) -> Iterator[ModelPool]:
    """The cards over a server that replays recorded answers, at the recorded prices."""
    prices = read_prices()
    with replay_server(history.answers) as server:
        cards = [
            {
                "name": card,
                "model": f"openai:{model}",
                "base_url": server.base_url,
                "max_output_tokens": ANSWER_TOKENS,
                "params": _PARAMS,
                "price": dataclasses.asdict(prices[model]),
                "context_window": min(4096, get_weights(model).context_window),
                "capabilities": list(get_weights(model).capabilities),
                "description": get_weights(model).description,
            }
            for card, model in CARDS.items()
        ]
        yield _pool(cards, pool_file)


@contextlib.contextmanager
def live(pool_file: Path, **options: Any) -> Iterator[ModelPool]:
    """The cards over llama.cpp servers on this machine; ``options`` are those of ``local_pool``.

    Raises:
        LocalModelError: weights or a server could not be had.
    """
    from integrations.llama_cpp.pool import local_pool

    with local_pool(CARDS, max_output_tokens=ANSWER_TOKENS, **options) as pool:
        yield _pool([{**card, "params": _PARAMS} for card in pool.config["models"]], pool_file)


_PARAMS = {"temperature": 0, "max_tokens": ANSWER_TOKENS}


def _pool(cards: list[dict[str, Any]], pool_file: Path) -> ModelPool:
    config = {"default": cards[-1]["name"], "models": cards}
    pool_file.parent.mkdir(parents=True, exist_ok=True)
    pool_file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return ModelPool.from_yaml(pool_file)
