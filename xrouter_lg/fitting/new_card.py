"""A new card joins a trained checkpoint by a short probe set, without retraining.

The probe set is a few dozen prompts (50 will do) with the new model's recorded score and cost. Its
success log-odds in family f are taken as b + s · (mean log-odds of the trained cards in f), with b
and s fitted to the probe by penalised maximum likelihood: what is hard for all is likely hard for
the newcomer. Each family's estimate is then mixed with the probe's own prompts of that family, and
half a standard error is taken off: of many estimates the highest is picked, so an unsure newcomer
would be picked for its luck. What exploring draws from is the estimate itself with its error, apart
from the other cards'.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.folder import verify, write_checkpoint
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import CardStats
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.policies.utility import load_head

MIN_PROBE = 20
_STRENGTH = 8.0
"""Probe prompts' worth of the fitted line in a family's score."""
_COST_STRENGTH = 3.0
_CAUTION = 0.5
"""Standard errors taken off the expected score."""
_PULL = np.array([0.1, 3.0])
"""Precision of the priors b ~ 0 and s ~ 1."""
_EDGE = 0.02


def probe_quality(shares_N_F: Floats, score_N: Floats, known_F_M: Floats) -> Floats:
    """Expected score [F] of a newcomer from N probe prompts of family shares [N, F], given the
    scores [F, M] of the trained cards: what it can be counted on."""
    error = math.sqrt(_variance(score_N) / len(score_N))
    counted: Floats = np.clip(
        probe_mean(shares_N_F, score_N, known_F_M) - _CAUTION * error, 0.0, 1.0
    )
    return counted


def probe_mean(shares_N_F: Floats, score_N: Floats, known_F_M: Floats) -> Floats:
    """The same without caution."""
    clipped = np.clip(known_F_M, _EDGE, 1.0 - _EDGE)
    level_F = np.log(clipped / (1.0 - clipped)).mean(1)
    x_N_2 = np.stack([np.ones(len(score_N)), shares_N_F @ level_F], axis=1)
    start = np.array([0.0, 1.0])
    theta = start.copy()
    for _ in range(50):  # Newton on a penalised logistic likelihood: convex, settles in a few
        p_N = 1.0 / (1.0 + np.exp(-(x_N_2 @ theta)))
        gradient = x_N_2.T @ (p_N - score_N) + _PULL * (theta - start)
        curvature = (x_N_2 * (p_N * (1.0 - p_N))[:, None]).T @ x_N_2 + np.diag(_PULL)
        move = np.linalg.solve(curvature, gradient)
        theta = theta - move
        if float(np.abs(move).max()) < 1e-9:
            break
    line_F = 1.0 / (1.0 + np.exp(-(theta[0] + theta[1] * level_F)))
    count_F = shares_N_F.sum(0)
    mixed_F: Floats = (score_N @ shares_N_F + _STRENGTH * line_F) / (count_F + _STRENGTH)
    return mixed_F


def probe_error(shares_N_F: Floats, score_N: Floats) -> Floats:
    """Standard error [F] of :func:`probe_mean`."""
    error: Floats = np.sqrt(_variance(score_N) / (shares_N_F.sum(0) + _STRENGTH))
    return error


def probe_cost(shares_N_F: Floats, cost_usd_N: Floats, known_usd_F_M: Floats) -> Floats:
    """Expected USD [F] of a newcomer: the pattern over families of the trained cards that cost
    something, at the newcomer's own level, mixed with its own costs per family."""
    paid_F_M = known_usd_F_M[:, (known_usd_F_M > 0).all(0)]
    pattern_F = np.exp(np.log(paid_F_M).mean(1)) if paid_F_M.size else np.ones(len(known_usd_F_M))
    level_F = pattern_F * cost_usd_N.sum() / float((shares_N_F @ pattern_F).sum())
    count_F = shares_N_F.sum(0)
    mixed: Floats = (cost_usd_N @ shares_N_F + _COST_STRENGTH * level_F) / (
        count_F + _COST_STRENGTH
    )
    return mixed


def add_card(
    checkpoint: Path,
    output: Path,
    name: str,
    prompts: Sequence[str],
    score_N: Floats,
    cost_usd_N: Floats,
    *,
    output_tokens: float = 0.0,
    price: Mapping[str, str] | None = None,
) -> Manifest:
    """Write the checkpoint in ``output`` with one more card; the manifest as written.

    Raises:
        ConfigurationError: too few probe prompts, unknown scores or costs, a card of that name,
            or a checkpoint without a family head.
        CheckpointError: no sound checkpoint there.
    """
    manifest = verify(checkpoint)
    if manifest.kind not in ("head", "slots"):
        raise ConfigurationError(
            f"checkpoint {str(checkpoint)!r} is of kind {manifest.kind!r}, which no probe set "
            "extends; train it again with the new card's outcomes"
        )
    head = load_head(manifest, checkpoint)
    if head is None or manifest.family_head is None:
        raise ConfigurationError(
            f"checkpoint {str(checkpoint)!r} has no family head, which is what reads a new card; "
            "train with family_head_share above 0"
        )
    if manifest.card(name) is not None:
        raise ConfigurationError(f"checkpoint {str(checkpoint)!r} has a card {name!r} already")
    if len(prompts) < MIN_PROBE:
        raise ConfigurationError(
            f"{len(prompts)} probe prompts of {name!r}; at least {MIN_PROBE} are needed, better 50"
        )
    if not (np.isfinite(score_N).all() and np.isfinite(cost_usd_N).all()):
        raise ConfigurationError(
            f"the probe of {name!r} has unknown scores or costs; leave them out"
        )
    if not float(cost_usd_N.sum()) > 0.0:
        raise ConfigurationError(f"the probe of {name!r} costs nothing; give its real cost in USD")
    shares_N_F = np.array([head.probabilities(prompt)[0] for prompt in prompts])
    trained = {card.name: card for card in manifest.cards}
    columns = [i for i, card in enumerate(head.cards) if card in trained]
    mean_usd_M = np.array([trained[head.cards[i]].cost_usd for i in columns])
    known_F_M = head.arrays["quality_F_M"][:, columns]
    quality_F = probe_quality(shares_N_F, score_N, known_F_M)
    usd_F = probe_cost(
        shares_N_F, cost_usd_N, head.arrays["cost_ratio_F_M"][:, columns] * mean_usd_M
    )
    # As the trained cards' means are over the training prompts, so is the newcomer's.
    mix_F = np.asarray(head.arrays["share_F"], dtype=np.float64)
    prior = float(np.clip(mix_F @ quality_F, 0.01, 0.99))
    usd = float(mix_F @ usd_F)
    stats = CardStats(
        name=name,
        line="",
        prior=math.log(prior / (1.0 - prior)),
        centre=0.0,
        output_tokens=output_tokens,
        cost_usd=usd,
        price=price,
    )
    arrays = {
        **head.arrays,
        "quality_F_M": _column(head.arrays["quality_F_M"], quality_F),
        "cost_ratio_F_M": _column(head.arrays["cost_ratio_F_M"], usd_F / usd),
        **_uncertain(head.arrays, shares_N_F, score_N, known_F_M),
    }
    grown = dataclasses.replace(
        manifest,
        added=(*manifest.added, stats),
        family_head=dataclasses.replace(manifest.family_head, cards=(*head.cards, name)),
        # Measured without the newcomer: they no longer say what this pool does.
        dial=(),
        verdict=None,
    )
    file = manifest.family_head.file

    def write_files(target: Path) -> None:
        for other in manifest.files:
            if other != file:
                shutil.copyfile(checkpoint / other, target / other)
        save_file(arrays, target / file)

    return write_checkpoint(output, grown, write_files)


def read_probe(outcomes: Path, model: str) -> tuple[tuple[str, ...], Floats, Floats, float]:
    """Prompts, scores and costs (USD) of a model in the folder of an outcome table, and its mean
    output tokens, 0 where none are recorded.

    Raises:
        OutcomeError: the table can't be read, or has no outcome of the model at a known cost.
    """
    probe = OutcomeTable.load(outcomes).complete_grid(models=[model], more=("output_tokens",))
    tokens = probe.more.get("output_tokens", np.full(probe.score.shape, np.nan))
    known = tokens[np.isfinite(tokens)]
    mean = float(known.mean()) if len(known) else 0.0
    return probe.prompts, probe.score[:, 0], probe.cost[:, 0], mean


def _uncertain(
    arrays: Mapping[str, Any], shares_N_F: Floats, score_N: Floats, known_F_M: Floats
) -> dict[str, Any]:
    """The arrays of a head that knows its uncertainty, with the newcomer's own; none of another."""
    if "root_F_M_M" not in arrays:
        return {}
    error_F = probe_error(shares_N_F, score_N)
    root_F_M_M = np.pad(arrays["root_F_M_M"], ((0, 0), (0, 1), (0, 1)))
    root_F_M_M[:, -1, -1] = error_F
    mean_F = np.clip(probe_mean(shares_N_F, score_N, known_F_M), 0.0, 1.0)
    return {
        "mean_F_M": _column(arrays["mean_F_M"], mean_F),
        "root_F_M_M": np.ascontiguousarray(root_F_M_M, dtype=np.float32),
        "worth_F_M": _column(arrays["worth_F_M"], shares_N_F.sum(0)),
    }


def _variance(score_N: Floats) -> float:
    return max(float(score_N.var()), 0.02)


def _column(array: npt.NDArray[np.float32], values: Floats) -> npt.NDArray[np.float32]:
    grown: npt.NDArray[np.float32] = np.ascontiguousarray(
        np.concatenate([array, values[:, None].astype(np.float32)], axis=1)
    )
    return grown
