"""The family head as a policy over letters: one letter a card."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from training.config.grpo import GrpoSettings
from training.grpo.episodes import EpisodeEnvironment, Episodes
from training.grpo.turns import Results, earned
from training.head.net import HeadNet
from xrouter_lg.arrays import Floats, Ints

_NEVER = -1e9
"""Logit of an illegal letter; finite, or an entropy would be 0 · inf."""


class HeadPlayer:
    """A head on episodes of an environment.

        π(card | request) = softmax over legal cards of (quality − λ · usd · price / c_ref) / T

    ``start`` is where it is held near: anchor · KL(π, π of the start) − entropy · H(π) is added to
    the loss.
    """

    def __init__(
        self,
        net: HeadNet,
        plane_N_P: Floats,
        environment: EpisodeEnvironment,
        episodes: Episodes,
        settings: GrpoSettings,
        names: Sequence[str],
    ) -> None:
        self.model: Any = net
        self.letter_ids = tuple(range(len(names)))
        self._environment, self._episodes, self.names = environment, episodes, names
        self._settings = settings
        self._point_N_P = torch.from_numpy(plane_N_P).float()
        self._start = deepcopy(net).requires_grad_(False)

    def __len__(self) -> int:
        return len(self._episodes)

    def prompt_ids(self, episodes: Sequence[int]) -> list[list[int]]:
        # Not read by anybody: the request is a point.
        return [[0] for _ in episodes]

    def log_policy(self, model: Any, episodes: Sequence[int]) -> Tensor:
        return self._log_policy(model, np.asarray(episodes), self._settings.temperature)

    def held(self, log_policy_B_L: Tensor, episodes: Sequence[int]) -> Tensor:
        settings, policy_B_L = self._settings, log_policy_B_L.exp()
        with torch.no_grad():
            start_B_L = self.log_policy(self._start, episodes)
        anchor = (policy_B_L * (log_policy_B_L - start_B_L)).sum(-1).mean()
        entropy = -(policy_B_L * log_policy_B_L).sum(-1).mean()
        return settings.anchor * anchor - settings.entropy * entropy

    def results(self, episodes: Sequence[int], letters: Sequence[int]) -> Results:
        return earned(self._environment, self._episodes, episodes, letters, self.names)

    @torch.no_grad()
    def utility(self, model: Any) -> Floats:
        """[B] what the best card of every episode earns."""
        every = np.arange(len(self))
        letters = self._log_policy(model, every, 1.0).argmax(-1).tolist()
        found: Floats = self.results(every.tolist(), letters).reward_B
        return found

    def _log_policy(self, model: Any, index: Ints, temperature: float) -> Tensor:
        own = self._episodes
        device = next(model.parameters()).device
        point = self._point_N_P[own.prompt_B[index]].to(device)
        quality_B_M, usd_B_M = model(point=point)
        card_B_S = torch.from_numpy(np.maximum(own.card_B_S[index], 0)).to(device)
        weight = own.cost_weight_B[index] / self._environment.reward.c_ref_usd
        price_B_S = torch.from_numpy(weight[:, None] * own.price_factor_B_S[index]).float()
        utility = quality_B_M.gather(1, card_B_S)
        utility = utility - price_B_S.to(device) * usd_B_M.gather(1, card_B_S)
        legal = torch.from_numpy(own.legal_B_S[index]).to(device)
        return torch.log_softmax((utility / temperature).masked_fill(~legal, _NEVER), dim=-1)


def tokenizer_of(names: Sequence[str]) -> PreTrainedTokenizerFast:
    """What TRL asks for: a card's name is all that is ever generated."""
    words = {word: at for at, word in enumerate((*names, "<end>", "<pad>"))}
    special = {"eos_token": "<end>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer(WordLevel(words)), **special
    )
