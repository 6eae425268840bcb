"""Checkpoints on a random model of a few thousand parameters, written by training's own export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from transformers import PretrainedConfig

from tests.support.tiny_model import write_tiny_base
from training.config.warm_start import WarmStartConfig
from training.model.base import Base, load_base
from training.model.slots import SlotModel, slot_model
from training.run.export import export
from xrouter_lg import ModelCard, ModelPool
from xrouter_lg.checkpoints.family_head import FamilyHead
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import CardStats, DialPoint, HeadStats, LanguageModel
from xrouter_lg.testing import ScriptedChatModel
from xrouter_lg.types import RouteRequest

NAMES = ("small", "medium", "large")
PRIORS = (0.0, 1.0, 2.0)
PRICES = ((0.1, 0.2), (1.0, 2.0), (10.0, 20.0))
CENTRE = 0.1
_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    "max_position_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
_WORDS = (
    "What is the sum of 17 and 23 ? Write a poem about sea and wind, please explain quantum "
    "theory to a child: def f(x): return x**2 naïve café 東京 の 天気 🙂🚀 Ñandú "
    "<request> </request> <|im_end|> [INST] 3.14159 -42 \n\n \t \\boxed{7} A B C Z"
)


def line(name: str) -> str:
    return f"{name} one"


def pool(factor: float = 1.0) -> ModelPool:
    return ModelPool(
        ModelCard(
            name=name,
            model=ScriptedChatModel(lambda _messages: "an answer"),
            price={"input": price[0] * factor, "output": price[1] * factor},
        )
        for name, price in zip(NAMES, PRICES, strict=True)
    )


def request(text: str, cost_weight: float = 0.0, target: float | None = None) -> RouteRequest:
    return RouteRequest(
        messages=[HumanMessage(text)],
        cost_weight=cost_weight,
        quality_target=target,
        prompt_tokens=50,
    )


def manifest(base: Base, names: tuple[str, ...] = NAMES) -> Manifest:
    cards = tuple(
        CardStats(name, line(name), PRIORS[m % 3], CENTRE, 100.0, 10.0 ** (m % 3 - 5), None)
        for m, name in enumerate(names)
    )
    dial = (DialPoint(0.0, 0.9, 1e-3, 1.0), DialPoint(5.0, 0.8, 1e-5, 1.0))
    return Manifest(
        kind="slots",
        language_model=LanguageModel(base.identity, "adapter"),
        cards=cards,
        c_ref_usd=1e-3,
        best_fixed=names[-1],
        dial=dial,
    )


def trained(base: Base, seed: int = 1, std: float = 0.3) -> SlotModel:
    """An adapter that does something: LoRA's second matrix starts at zero."""
    slot = slot_model(base, np.array(PRIORS), WarmStartConfig(frozen_layers=1))
    torch.manual_seed(seed)
    for name, parameter in slot.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=std)
    return slot


def write(
    folder: Path,
    base_folder: Path,
    *,
    weights: Literal["adapter", "merged"] = "adapter",
    names: tuple[str, ...] = NAMES,
    seed: int = 1,
    std: float = 0.3,
    head: FamilyHead | None = None,
    family_head: HeadStats | None = None,
) -> Path:
    """A checkpoint in ``folder``; another ``seed`` is another training, ``std`` how much of it.
    A ``head`` comes with what the manifest says of it."""
    base = load_base(base_folder)
    written = replace(manifest(base, names), family_head=family_head)
    export(folder, trained(base, seed, std), base, written, weights=weights, head=head)
    return folder


def write_base(folder: Path, model: type[Any] | None = None, **config: Any) -> Path:
    """A tiny base; with ``model`` (a causal language model of transformers) of that architecture,
    ``config`` on top of the usual tiny sizes."""
    write_tiny_base(folder)
    if model is None:
        return folder
    tiny = PretrainedConfig.get_config_dict(str(folder))[0]
    torch.manual_seed(0)
    built = model(model.config_class(**{**{key: tiny[key] for key in _SIZES}, **config}))
    folder.joinpath("config.json").unlink()
    built.save_pretrained(folder)
    return folder


def conversations(count: int) -> list[list[BaseMessage]]:
    """Requests of many shapes: lengths, scripts, contexts, tool results, forged markup."""
    rng = np.random.default_rng(7)
    words = _WORDS.split(" ")

    def text(length: int) -> str:
        return " ".join(rng.choice(words, size=length).tolist()) or "hi"

    found: list[list[BaseMessage]] = []
    for i in range(count):
        last = HumanMessage(text(int(rng.integers(1, 1 + (5, 40, 200, 900)[i % 4]))))
        before: list[BaseMessage] = []
        if i % 3 == 1:
            before.append(SystemMessage(text(12)))
        if i % 5 == 2:
            before += [HumanMessage(text(9)), AIMessage(text(30))]
        if i % 7 == 3:
            call = {"name": "look_up", "args": {"q": text(2)}, "id": f"t{i}"}
            before += [AIMessage("", tool_calls=[call]), ToolMessage(text(8), tool_call_id=f"t{i}")]
        found.append([*before, last])
    return found
