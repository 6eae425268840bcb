"""The three models as a pool, and the judge as a file of verifiers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from integrations.demo.recorded.build import read_prices
from integrations.demo.replay import JUDGE
from integrations.demo.users import PROOF
from integrations.llama_cpp.catalogue import get_weights
from xrouter_lg import ModelPool
from xrouter_lg.files import write_bytes

CARDS = {
    "tiny": "smollm2-135m",
    "small": "qwen2.5-coder-0.5b",
    "large": "qwen2.5-coder-1.5b",
}
"""Card → model, cheapest first; the last is the pool's default."""
ANSWER_TOKENS = 96
"""Longest answer; no recorded one is longer."""
_CRITERIA = "The answer is right if it does what the question asks for, and is true."


def write_pool(path: Path, base_url: str) -> ModelPool:
    """The cards of the replayed models at the recorded prices, written as a pool file."""
    prices = read_prices()
    cards = [
        {
            "name": card,
            "model": f"openai:{model}",
            "base_url": base_url,
            "max_output_tokens": ANSWER_TOKENS,
            "params": {"temperature": 0, "max_tokens": ANSWER_TOKENS},
            "price": dataclasses.asdict(prices[model]),
            "context_window": min(4096, get_weights(model).context_window),
            "capabilities": list(get_weights(model).capabilities),
            "description": get_weights(model).description,
        }
        for card, model in CARDS.items()
    ]
    _write_yaml(path, {"default": cards[-1]["name"], "models": cards})
    return ModelPool.from_yaml(path, reload=False)


def write_judge(path: Path, base_url: str) -> None:
    """Verifiers of bought answers: a judge that costs nothing, such as a model on a machine of
    one's own or a colleague."""
    cases = [
        ("good" if score else "bad", {"answer": answer, "meta": {"prompt": prompt}})
        for prompt, answers in PROOF.items()
        for answer, score in answers.items()
    ]
    judge: dict[str, Any] = {
        "verifier": "judge",
        "criteria": _CRITERIA,
        "model": {
            "name": JUDGE,
            "model": f"openai:{JUDGE}",
            "base_url": base_url,
            "price": {"input": 0, "output": 0},
            "params": {"temperature": 0, "max_tokens": 256},
        },
    }
    for verdict, case in cases:
        judge.setdefault(verdict, []).append(case)
    _write_yaml(path, {"verifiers": [judge]})


def _write_yaml(path: Path, data: Any) -> None:
    write_bytes(path, yaml.safe_dump(data, sort_keys=False).encode())
