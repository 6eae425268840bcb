"""What the graphs here share: their pool, and the options that a request may bring."""

from __future__ import annotations

import os

from typing_extensions import TypedDict  # typing's has no JSON schema before Python 3.12
from xrouter_lg import ModelCard, ModelPool
from xrouter_lg.testing import ScriptedChatModel
from xrouter_lg.testing.scripted import Script


class Options(TypedDict, total=False):
    """Fields of Studio's form, and of ``graph.invoke(..., context={"cost_weight": 0.5})``."""

    cost_weight: float
    """Score units that one reference cost is worth; 0 is quality alone."""
    max_cost_usd: float
    """Hard limit of a request, in USD."""
    timeout_s: float
    """Seconds for the whole request."""
    allow: list[str]
    """The only cards that may be called."""
    deny: list[str]
    """Cards that may not be called."""


def pool_of(small: Script, large: Script) -> ModelPool:
    """The pool file in ``XROUTER_POOL``, with cards named ``small`` and ``large``: a graph needs
    no other change for any provider. Without it, models inside the process that follow scripts."""
    if path := os.environ.get("XROUTER_POOL"):
        return ModelPool.from_yaml(path)
    return ModelPool(
        [
            ModelCard(
                name="small",
                model=ScriptedChatModel(small, model_name="small"),
                price={"input": 0.02, "output": 0.06},  # USD per million tokens
                max_output_tokens=512,
                description="short answers, simple facts",
            ),
            ModelCard(
                name="large",
                model=ScriptedChatModel(large, model_name="large"),
                price={"input": 0.5, "output": 1.5},
                max_output_tokens=1024,
                description="reasoning, several steps",
            ),
        ],
        default="large",
    )
