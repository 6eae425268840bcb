"""Greedy rollouts of a tools-codec model: how it would route, for validation and judging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from trl.chat_template_utils import add_response_schema, parse_response

from training.grpo.turns import mean_known
from training.tools.environment import (
    Message,
    Rollout,
    RolloutResult,
    ToolEpisodes,
    environment_class,
    result_of,
)
from training.tools.trainer import metrics_of
from xrouter_lg.policies.tools.torch_chat import most_probable


@dataclass(frozen=True)
class Routed:
    """What greedy rollouts came to."""

    reward: float
    """Mean over the known ones."""
    metrics: Mapping[str, float]
    results: list[RolloutResult]


def route(model: Any, tokenizer: Any, of: ToolEpisodes, *, max_tokens: int) -> Routed:
    """Every episode once, always taking the most probable token."""
    training = model.training
    model.eval()
    if getattr(tokenizer, "response_template", None) is None:
        tokenizer = add_response_schema(tokenizer)
    kind = environment_class(of)
    results = [_one(model, tokenizer, of, kind, e, max_tokens) for e in range(len(of))]
    model.train(training)
    rewards = np.array([result.reward for result in results])
    names = [card.name for card in of.cards]
    return Routed(mean_known(rewards), metrics_of(results, names), results)


def _one(
    model: Any,
    tokenizer: Any,
    of: ToolEpisodes,
    kind: type[Rollout],
    episode: int,
    max_tokens: int,
) -> RolloutResult:
    opening, tools = of.opening(episode)
    rollout = kind()
    rollout.reset(episode=episode)
    said: list[Message] = []
    tokens = 0
    for _ in range(of.turns):
        ids: list[int] = tokenizer.apply_chat_template(
            [*opening, *said], tools=tools, add_generation_prompt=True, return_dict=False
        )
        with torch.no_grad():
            new = most_probable(model, tokenizer, ids, max_tokens)
        tokens += len(ids) + len(new)
        message: Message = parse_response(tokenizer, new, prefix=ids, tools=[*tools])
        said.append(message)
        answers = [_execute(rollout, call["function"]) for call in message.get("tool_calls") or ()]
        if not answers or rollout._selected is not None or of.turns == 1:
            break
        said += answers
    return result_of(rollout, said, tokens)


def _execute(rollout: Rollout, function: Mapping[str, Any]) -> Message:
    name = str(function["name"])
    try:
        if name.startswith("_") or name in ("reset", "get_reward"):
            raise ValueError(f"there is no tool {name!r}")
        text = str(getattr(rollout, name)(**function["arguments"]))
    except Exception as error:  # what a model can get wrong has no end
        text = str({"error": str(error)})
    return {"role": "tool", "name": name, "content": text}
