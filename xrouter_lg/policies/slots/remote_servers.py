"""How vLLM and llama.cpp are asked for the log probabilities of slots, and what they tell about
the model that they serve.

Both get the prompt as token ids, generate one token, and return a value per slot. What differs is
how a server is made to show *every* slot, however improbable, and the anchor with them:

- **vLLM**: ``structured_outputs={"choice": [...]}`` masks other tokens before the log
  probabilities are computed, so the slots are among the most probable ones.
- **llama.cpp**: its grammar does not reach its log probabilities, but a bias on logits reaches
  those it reports after sampling. The same bias on every slot leaves their differences alone.
"""

from __future__ import annotations

import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, Literal

from xrouter_lg.errors import PolicyError
from xrouter_lg.policies.slots.prompts import Block
from xrouter_lg.prompts import slots

_MASKED = -9000.0
"""vLLM writes -9999 for a token that can't be chosen."""
_SHOWN = 20
"""Log probabilities asked of vLLM, its own limit. More than slots: a choice is a text, so a token
that only begins one (the blank before the letter) is let through as well."""
ADAPTER_FILE = "-lora.gguf"
"""Behind a checkpoint's name: the file of its adapter that llama.cpp has loaded."""
_ADAPTER = "adapter "
"""Before the number of one of several adapters, in what llama.cpp is asked for."""
_BIAS = 100.0
"""Logits by which llama.cpp's slots are lifted above the other tokens."""


class ServerKind(ABC):
    """One kind of server: where and how to ask, how to read the answer."""

    name: str
    path: str
    """Of the completion endpoint, behind the server's root."""
    adapters_path: str | None = None
    """Where it tells which adapters it has, if they are not among its models."""

    @abstractmethod
    def body(
        self, model: str, prompt_ids: Sequence[int], block: Block, *, cached: bool
    ) -> dict[str, Any]:
        """The request for one prompt; ``cached`` lets the server use its prefix cache."""

    @abstractmethod
    def values(self, answer: Any, block: Block) -> list[float]:
        """Log probability (up to a constant) of each of the block's slots.

        Raises:
            PolicyError: the answer has another shape, or lacks a slot.
        """

    def served(self, models: Any) -> tuple[str, ...]:
        """The names of the models that it serves, out of the answer of ``/v1/models``.

        Raises:
            PolicyError: the answer has another shape.
        """
        try:
            return tuple(str(entry["id"]) for entry in models["data"])
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(
                f"{self.name}'s list of models has another shape: {error!r}"
            ) from error

    def adapters(self, told: Any) -> Mapping[str, str]:
        """The adapters out of the answer of ``adapters_path``: what each one's checkpoint is
        called, and the model to ask for it."""
        return {}


class Vllm(ServerKind):
    """vLLM's OpenAI-compatible server, 0.12 or newer."""

    name = "vLLM"
    path = "/v1/completions"

    def body(
        self, model: str, prompt_ids: Sequence[int], block: Block, *, cached: bool
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": model,
            "prompt": list(prompt_ids),
            "max_tokens": 1,
            "temperature": 0.0,
            "logprobs": _SHOWN,
            # Ids instead of texts: the text of a token need not tell which token it is.
            "return_tokens_as_token_ids": True,
            "structured_outputs": {"choice": [slots.slot_token(x) for x in block.letters]},
        }
        if not cached:
            # A prefix is shared only by requests of one salt.
            body["cache_salt"] = secrets.token_hex(8)
        return body

    def values(self, answer: Any, block: Block) -> list[float]:
        try:
            top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
            found = {int(key.removeprefix("token_id:")): float(top[key]) for key in top}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _shape(self.name, error) from error
        return _of_slots({k: v for k, v in found.items() if v > _MASKED}, block, self.name)


class LlamaCpp(ServerKind):
    """llama.cpp's own server, by its native endpoint."""

    name = "llama.cpp"
    path = "/completion"
    adapters_path = "/lora-adapters"

    def adapters(self, told: Any) -> Mapping[str, str]:
        entries = told if isinstance(told, list) else []
        return {
            PurePath(str(entry["path"])).name.removesuffix(ADAPTER_FILE): f"{_ADAPTER}{entry['id']}"
            for entry in entries
            if isinstance(entry, Mapping) and {"path", "id"} <= set(entry)
        }

    def body(
        self, model: str, prompt_ids: Sequence[int], block: Block, *, cached: bool
    ) -> dict[str, Any]:
        number = model.removeprefix(_ADAPTER)
        chosen = {"lora": [{"id": int(number), "scale": 1.0}]} if number != model else {}
        return {
            "model": model,
            **chosen,
            "prompt": list(prompt_ids),
            "n_predict": 1,
            # Nothing between the logits and the probabilities but the bias.
            "samplers": [],
            "temperature": 1.0,
            "logit_bias": [[token, _BIAS] for token in block.slot_ids],
            "n_probs": len(block.letters),
            "post_sampling_probs": True,
            # Its cache knows no adapters: a prefix that one has read would be taken for another's.
            "cache_prompt": cached and not chosen,
        }

    def values(self, answer: Any, block: Block) -> list[float]:
        try:
            top = answer["completion_probabilities"][0]["top_probs"]
            found = {int(entry["id"]): float(entry["prob"]) for entry in top}
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise _shape(self.name, error) from error
        logs = {token: math.log(share) for token, share in found.items() if share > 0.0}
        return _of_slots(logs, block, self.name)


Kind = Literal["vllm", "llama_cpp"]

SERVERS: Mapping[Kind, ServerKind] = {"vllm": Vllm(), "llama_cpp": LlamaCpp()}


def _of_slots(found: Mapping[int, float], block: Block, server: str) -> list[float]:
    """The slots' values in order. A slot too improbable to be shown gets the lowest value shown,
    an upper bound of its own; the anchor, against which all are measured, must be there."""
    if block.slot_ids[-1] not in found or any(math.isnan(value) for value in found.values()):
        raise PolicyError(
            f"{server} returned no usable log probability of the anchor slot: it is too old to "
            "restrict its choice to the slots, or computes NaN"
        )
    least = min(found[token] for token in block.slot_ids if token in found)
    return [found.get(token, least) for token in block.slot_ids]


def _shape(server: str, error: Exception) -> PolicyError:
    return PolicyError(f"{server}'s answer has another shape than expected: {error!r}")
