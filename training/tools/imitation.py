"""Warm start of the tools codec: TRL's SFT on calls that the rewards ask for.

An untrained small model calls no tool at all. It first imitates calls drawn from

    softmax over candidates of (t_m - λ · c_m / c_ref) / T

with t_m the soft target of :func:`training.warm_start.targets.soft_targets`: the form of a call,
and the odds of each card at each cost weight. With several turns it also sees that a good answer is
selected and that after a bad one the best of the others is called. Where it may answer itself, it
imitates the reference of prompts that are marked ``must_not_call``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from training.config.trainer import TrainerConfig
from training.config.warm_start import WarmStartConfig
from training.stage.callbacks import resumed
from training.tools.environment import Message, ToolEpisodes
from training.warm_start.trainer import shared_arguments
from xrouter_lg.arrays import Floats

_GOOD = 0.5
"""An answer of at least this score is worth selecting."""


@dataclass(frozen=True)
class ToolRow:
    """A conversation as token ids; labels are -100 where nothing is to be learned."""

    input_ids: list[int]
    labels: list[int]


def tool_rows(
    of: ToolEpisodes,
    tokenizer: Any,
    target_N_M: Floats,
    expected_usd_M: Floats,
    rng: np.random.Generator,
    *,
    temperature: float = 0.1,
) -> list[ToolRow]:
    """One conversation per episode; none where the router should answer itself and nobody has said
    what. ``target_N_M`` are soft targets by the source's prompts."""
    rows = []
    for episode in range(len(of)):
        opening, tools = of.opening(episode)
        prompt = int(of.episodes.prompt_B[episode])
        if of.must_not_call(prompt):
            own = of.answer(prompt)
            turns = [] if own is None else [own]
        else:
            turns = _turns(of, episode, target_N_M, expected_usd_M, rng, temperature)
        if turns:
            rows.append(tool_row(tokenizer, opening, tools, turns))
    return rows


def tool_row(
    tokenizer: Any,
    opening: Sequence[Message],
    tools: Sequence[dict[str, Any]],
    turns: Sequence[Message],
) -> ToolRow:
    """Token ids of a conversation in the model's own template; only what the router says is
    learned.

    Raises:
        ValueError: a template that renders earlier messages otherwise once later ones follow.
    """
    ids = _render(tokenizer, opening, tools, ask=True)
    labels = [-100] * len(ids)
    said = list(opening)
    for message in turns:
        said.append(message)
        spoken = message["role"] == "assistant"
        longer = _render(tokenizer, said, tools, ask=not spoken)
        if longer[: len(ids)] != ids:
            raise ValueError("the chat template changes what it has said once more is said")
        labels += longer[len(ids) :] if spoken else [-100] * (len(longer) - len(ids))
        ids = longer
    return ToolRow(ids, labels)


def train_tool_rows(
    model: Any,
    tokenizer: Any,
    rows: Sequence[ToolRow],
    config: WarmStartConfig,
    *,
    folder: Path,
    trainer: TrainerConfig | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    resume: bool = False,
) -> None:
    """Train ``model`` in place with TRL's SFTTrainer and its own loss."""
    how = trainer or TrainerConfig(device="cpu")
    data = Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )
    learner = SFTTrainer(
        model=model,
        args=SFTConfig(**shared_arguments(config, how, folder)),
        train_dataset=data,
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    learner.remove_callback(PrinterCallback)
    learner.train(resume_from_checkpoint=resumed(folder, resume))


def _turns(
    of: ToolEpisodes,
    episode: int,
    target_N_M: Floats,
    expected_usd_M: Floats,
    rng: np.random.Generator,
    temperature: float,
) -> list[Message]:
    prompt = int(of.episodes.prompt_B[episode])
    left = of.candidates(episode)
    weight = float(of.episodes.cost_weight_B[episode]) / of.reward.c_ref_usd
    said: list[Message] = []
    for number in range(1, max(2, of.turns)):
        utility = np.array([target_N_M[prompt, m] - weight * expected_usd_M[m] for m in left])
        odds = np.exp((utility - utility.max()) / temperature)
        card = left.pop(int(rng.choice(len(odds), p=odds / odds.sum())))
        said.append(of.call(card))
        if of.turns == 1:
            return said
        score, _ = of.source.ask(np.array([prompt]), np.array([card]))
        name = of.cards[card].tool_name
        said.append({"role": "tool", "name": name, "content": of.shown(number, prompt, card)})
        worth = max((target_N_M[prompt, m] - weight * expected_usd_M[m] for m in left), default=0)
        if float(score[0]) >= _GOOD or worth <= 0 or number == of.turns - 1:
            break
    said.append(of.select(f"c{number}"))
    return said


def _render(
    tokenizer: Any, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, ask: bool
) -> list[int]:
    found: list[int] = tokenizer.apply_chat_template(
        list(messages),
        tools=list(tools),
        add_generation_prompt=ask,
        tokenize=True,
        return_dict=False,
    )
    return found
