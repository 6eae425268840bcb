"""The base language model of a trained policy: loading, identity, and the two halves of the CPU
recipe.

Whatever a base is given as, :func:`xrouter_lg.checkpoints.bases.materialise` makes a folder of it.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache
from transformers.utils import logging as transformers_logging

from xrouter_lg.checkpoints.bases import IDENTITY_FILE
from xrouter_lg.checkpoints.identity import slot_token_ids, tokenizer_hash, weights_digest
from xrouter_lg.checkpoints.parts import BaseIdentity
from xrouter_lg.errors import ConfigurationError

PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "safetensors", "numpy")
"""What a language model's training runs on; a checkpoint records their versions."""


@dataclass(frozen=True)
class Base:
    """A loaded base model."""

    model: Any
    """A causal language model of transformers, in evaluation mode, no gradients."""
    tokenizer: Any
    identity: BaseIdentity
    folder: Path
    slot_ids: dict[str, int]
    """Token id by slot letter, anchor included."""


def load_base(folder: Path, *, dtype: torch.dtype = torch.float32) -> Base:
    """Load a materialised base and check that its vocabulary has every slot as one token.

    Raises:
        ConfigurationError: no base there, or a slot is no single token.
    """
    # Bars of a second each would stand between the lines of a run's own progress.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"no base model in {str(folder)!r}: {error}") from error
    model.requires_grad_(False)
    model.train(False)
    return Base(
        model=model,
        tokenizer=tokenizer,
        identity=identify(folder, tokenizer),
        folder=folder,
        slot_ids=slot_token_ids(tokenizer),
    )


def identify(folder: Path, tokenizer: Any) -> BaseIdentity:
    """Name, digest of the weights and digest of the tokenizer of a base folder."""
    marker = folder / IDENTITY_FILE
    named = json.loads(marker.read_text())["model_id"] if marker.is_file() else folder.name
    config = AutoConfig.from_pretrained(str(folder))
    return BaseIdentity(
        model_id=named,
        sha256=weights_digest(folder),
        tokenizer_sha256=tokenizer_hash(tokenizer),
        layers=int(config.num_hidden_layers),
        hidden_size=int(config.hidden_size),
    )


def save_adapter(model: Any, folder: Path, model_id: str) -> None:
    """Write what was trained of a model; ``model_id`` is what the adapter calls its base."""
    model.save_pretrained(folder)
    # PEFT writes the folder that the base was read from into both.
    folder.joinpath("README.md").unlink(missing_ok=True)
    file = folder / "adapter_config.json"
    if file.is_file():
        adapter = json.loads(file.read_text())
        adapter["base_model_name_or_path"] = model_id
        file.write_text(json.dumps(adapter, indent=1, sort_keys=True))


def inner_of(model: Any) -> Any:
    """The causal language model itself, whether PEFT is around it or not."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def decoder_of(model: Any) -> Any:
    """The stack of layers inside a causal language model, with or without PEFT around it."""
    return inner_of(model).model


def part_of(decoder: Any, start: int, stop: int, *, with_norm: bool) -> Any:
    """Layers ``start`` to ``stop`` as a decoder of their own that shares the weights.

    It takes ``inputs_embeds`` (or ``input_ids`` when ``start`` is 0) and gives the hidden state
    behind layer ``stop``; the final norm is part of it only on request.
    """
    part = copy.copy(decoder)
    # nn.Module keeps its children in one dictionary: without a copy both would lose their layers.
    part._modules = dict(decoder._modules)
    part.layers = nn.ModuleList(list(decoder.layers[start:stop]))
    part.config = copy.deepcopy(decoder.config)
    part.config.num_hidden_layers = stop - start
    if not with_norm:
        part.norm = nn.Identity()
    return part


def run_prefix(part: Any, hidden_1_P_D: Tensor) -> tuple[Tensor, DynamicCache]:
    """The shared prefix through a part: hidden states and the keys and values behind it."""
    cache = DynamicCache()
    output = part(
        inputs_embeds=hidden_1_P_D,
        position_ids=torch.arange(hidden_1_P_D.shape[1], device=hidden_1_P_D.device)[None],
        attention_mask=causal_mask(
            torch.tensor([hidden_1_P_D.shape[1]], device=hidden_1_P_D.device), 0
        ),
        past_key_values=cache,
        use_cache=True,
    )
    return output.last_hidden_state, cache


def run_questions(
    part: Any, hidden_B_T_D: Tensor, lengths_B: Tensor, prefix: DynamicCache
) -> Tensor:
    """Questions (padded on the right) through a part behind a shared prefix; hidden [B, T, D].

    Gradients flow into the prefix, whose keys and values each question of the batch shares.
    """
    # The prefix of a cache without tokens has length 0: questions alone.
    seen = _cached_length(prefix)
    batch, width = hidden_B_T_D.shape[:2]
    cache = expand(prefix, batch)
    output = part(
        inputs_embeds=hidden_B_T_D,
        position_ids=(torch.arange(width, device=hidden_B_T_D.device) + seen)[None].expand(
            batch, -1
        ),
        attention_mask=causal_mask(lengths_B, seen),
        past_key_values=cache,
        use_cache=True,
    )
    hidden: Tensor = output.last_hidden_state
    return hidden


def expand(prefix: DynamicCache, batch: int) -> DynamicCache:
    """A cache of ``batch`` rows over the prefix's one, which stays as it is."""
    cache = DynamicCache()
    layers: list[Any] = list(prefix.layers)
    for index, layer in enumerate(layers):
        if layer.is_initialized:
            keys, values = layer.keys, layer.values
            cache.update(keys.expand(batch, -1, -1, -1), values.expand(batch, -1, -1, -1), index)
    return cache


def causal_mask(lengths_B: Tensor, seen: int) -> Tensor:
    """Boolean mask [B, 1, T, seen + T], True where a query may look: the prefix, and what comes
    before it among its own row's ``lengths`` tokens."""
    width, device = int(lengths_B.max()), lengths_B.device
    own_T_T = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    valid_B_T = torch.arange(width, device=device)[None] < lengths_B[:, None]
    mask_B_T_T = own_T_T[None] & valid_B_T[:, None, :]
    # A padding query must look somewhere, or its softmax is 0/0 and NaN spreads to the gradients.
    mask_B_T_T = mask_B_T_T | torch.eye(width, dtype=torch.bool, device=device)[None]
    prefix = torch.ones(len(lengths_B), width, seen, dtype=torch.bool, device=device)
    return torch.cat([prefix, mask_B_T_T], dim=2)[:, None]


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Run with a number of torch threads; None leaves it alone."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cached_length(cache: DynamicCache) -> int:
    layers: list[Any] = list(cache.layers)
    for layer in layers:
        if layer.is_initialized:
            return int(layer.keys.shape[-2])
    return 0
