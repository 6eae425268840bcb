"""Warm start: teach the base model the success log-odds of every card, from recorded outcomes.

The target of card m on a prompt is not its one recorded outcome, which is a noisy draw (two runs
of one model disagree on 3 to 19 % of prompts), but that outcome shrunk towards what is known of
its kind of task:

    t_m = a * y_m + (1 - a) * mean of m over the prompt's family,

the family's mean itself being shrunk towards the card's mean. The loss is the binary cross-entropy
of sigmoid(prior_m + logit(slot m) - logit(anchor) - centre_m) against t_m, so the model learns how
a prompt departs from the card's average, and an untrained model starts at the average.

Training is TRL's (:mod:`training.warm_start.trainer`). With the CPU recipe the lower layers are
frozen and their activations cached (:mod:`training.model.features`); LoRA trains the upper ones.
What comes out is a plain PEFT adapter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from training.config.warm_start import WarmStartConfig
from training.model.reading import Reading, predict
from training.model.slots import SlotModel, slot_model
from training.warm_start.rows import Samples
from xrouter_lg.arrays import Floats, Ints

__all__ = [
    "SlotModel",
    "WarmStartConfig",
    "card_samples",
    "log_loss",
    "measure_centre",
    "permuted_samples",
    "slot_model",
    "soft_targets",
]


_FAMILY_PRIOR = 8.0
"""Prompts of the overall mean that a family's mean is mixed with."""
_CENTRE_SAMPLE = 192
"""Prompts that the untrained base's mean slot logits are measured on."""


def soft_targets(score_N_M: Floats, families: Sequence[str], outcome_share: float) -> Floats:
    """Targets [N, M] in [0, 1] out of recorded scores [N, M]; see the module. NaN stays NaN.

    Raises:
        ValueError: ``outcome_share`` outside [0, 1], or lengths that differ.
    """
    if not 0.0 <= outcome_share <= 1.0:
        raise ValueError(f"outcome_share is {outcome_share!r}; it must lie in [0, 1]")
    if len(families) != len(score_N_M):
        raise ValueError(f"{len(score_N_M)} rows of scores, but {len(families)} families")
    overall_M = np.nanmean(score_N_M, axis=0)
    names = np.asarray(families)
    known_N_M = np.empty_like(score_N_M)
    for family in np.unique(names):
        own = names == family
        count_M = np.isfinite(score_N_M[own]).sum(0)
        total_M = np.nansum(score_N_M[own], axis=0)
        mean_M = (total_M + _FAMILY_PRIOR * overall_M) / (count_M + _FAMILY_PRIOR)
        known_N_M[own] = mean_M
    targets: Floats = outcome_share * score_N_M + (1.0 - outcome_share) * known_N_M
    return targets


def card_samples(slot: SlotModel, reading: Reading, rows: Ints, target_N_M: Floats) -> Samples:
    """Rows in which every card keeps its letter: one per prompt and block that it is read behind;
    the cards of other blocks have no target in it."""
    prompts, targets = [], []
    for at, numbers, letters in reading.blocks(rows):
        target = np.full((len(at), target_N_M.shape[1]), np.nan)
        target[:, letters] = target_N_M[at, letters]
        prompts.append(numbers)
        targets.append(target)
    number_N = np.concatenate(prompts)
    prior = np.tile(slot.prior_M.double().numpy(), (len(number_N), 1))
    return Samples(number_N, prior, np.concatenate(targets))


def permuted_samples(
    slot: SlotModel,
    reading: Reading,
    questions: Sequence[str],
    target_N_M: Floats,
    prefix_of: Callable[[Sequence[int]], str],
    rng: np.random.Generator,
) -> Samples:
    """Rows in which the cards are dealt anew to the letters, prompt by prompt.

    ``prefix_of(order)`` renders the candidate block with card ``order[i]`` at letter i.
    """
    orders_N_M = np.stack([rng.permutation(target_N_M.shape[1]) for _ in questions])
    prefixes = [prefix_of(order.tolist()) for order in orders_N_M]
    prior_M = slot.prior_M.double().numpy()
    return Samples(
        np.array(reading.find(list(questions), prefixes), dtype=np.int64),
        prior_M[orders_N_M],
        np.take_along_axis(target_N_M, orders_N_M, axis=1),
    )


def measure_centre(slot: SlotModel, reading: Reading, rows: Ints, seed: int) -> None:
    """Set the slot model's centre to the untrained base's mean contrast over a sample, that of
    every card behind its own block."""
    for _, numbers, letters in reading.blocks(rows):
        chosen = np.random.default_rng(seed).permutation(numbers)[:_CENTRE_SAMPLE]
        slot.centre_M[letters] = 0.0
        raw = torch.from_numpy(predict(slot, reading, chosen)).float() - slot.prior_M
        slot.centre_M[letters] = raw.mean(0)[letters]


def log_loss(z_N_M: Floats, score_N_M: Floats) -> float:
    """Mean binary cross-entropy (nats) of success log-odds against the recorded scores."""
    known_N_M = np.isfinite(score_N_M)
    z, score = z_N_M[known_N_M], score_N_M[known_N_M]
    return float((np.logaddexp(0.0, z) - score * z).mean())
