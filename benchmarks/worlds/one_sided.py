"""Never worse, from any log: what is concluded from one-sided logs, and what following it is worth.

For each log (uniform, rules, flagship; exploration 0, 0.1, 0.3; thumbs on 30 % of the answers of
which 10 % are wrong) and each cost weight the conclusion is followed on the other half of the
prompts: the checkpoint, one card for all, or what was logged. It is compared with the better of the
logging policy and the best fixed card that the log could have told (by its own self-normalised
estimate, of cards with 30 scored answers or more).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.worlds.logs import Log, LogSettings, make_log
from xrouter_lg.arrays import Floats
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.figures.curve import Predictions, predicted_curve
from xrouter_lg.figures.metrics import Reference, resample
from xrouter_lg.fitting.family_head import export_head
from xrouter_lg.fitting.from_log import FromLog, learned_from
from xrouter_lg.fitting.read_lesson import LessonSettings
from xrouter_lg.judge.one_sided import Conclusion, conclude_from_log
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split

LOGS = (
    LogSettings("uniform", 1.0),
    *(LogSettings(kind, e) for kind in ("rules", "flagship") for e in (0.0, 0.1, 0.3)),
)
COST_WEIGHTS = (0.05, 0.2, 0.5)
_TOLD = 30
"""Scored answers that a card needs for a log to tell how good it is."""


@dataclass(frozen=True)
class Followed:
    """One log, one cost weight, one seed."""

    log: str
    cost_weight: float
    use: str
    over_log: float
    """Utility of what was concluded over the logging policy, on prompts not learned from."""
    over_better: float
    """Over the better of the logging policy and the best fixed card that the log could tell."""
    possible: float
    """Of routing by all outcomes, over the better of the two."""


@dataclass(frozen=True)
class GainShare:
    """How much of the gain of full information a log's routing has."""

    cards: int
    requests: int
    share: float
    """Of the gain in AIQ over the zero router that all outcomes of the same prompts give."""
    gain: float
    full: float


def follow(
    whole: OutcomeGrid, *, seeds: int, requests: int, say: Callable[[str], None]
) -> list[Followed]:
    """Every log, seed and cost weight."""
    found = []
    for seed in range(seeds):
        train, test = random_split(whole, seed=seed)
        reference = Reference.of(train)
        full = _expected_by_all(train, test)
        for settings in LOGS:
            name = f"{settings.kind}, exploration {settings.exploration:g}"
            say(f"seed {seed}: {name}")
            log = make_log(train, settings, reference, requests=requests, seed=seed)
            learned = _learned(log)
            found += [
                _follow(log, learned, name, settings, test, reference, weight, full)
                for weight in COST_WEIGHTS
            ]
    return found


def _learned(log: Log) -> FromLog | None:
    try:
        return learned_from(log.table, LessonSettings())
    except ConfigurationError:
        return None  # one card, or too few thumbs: what is, is held


def _follow(
    log: Log,
    learned: FromLog | None,
    name: str,
    settings: LogSettings,
    test: OutcomeGrid,
    reference: Reference,
    weight: float,
    full: Predictions,
) -> Followed:
    utility = test.score - weight * test.cost / reference.c_ref
    logged = float((settings.chances(test, reference) * utility).sum(1).mean())
    told = best_told(log, weight, reference.c_ref)
    better = max(logged, -np.inf if told is None else float(utility[:, told].mean()))
    use, worth = "as it is", logged
    if learned is not None:
        concluded = concluded_from(learned, weight, reference.c_ref)
        use = concluded.use
        if use == "checkpoint":
            worth = float(_taken(utility, expected(learned, test), weight, reference.c_ref).mean())
        elif use == "fixed":
            card = learned.table.cards.index(str(concluded.card))
            worth = float(utility[:, test.models.index(learned.table.models[card])].mean())
    possible = float(_taken(utility, full, weight, reference.c_ref).mean())
    return Followed(name, weight, use, worth - logged, worth - better, possible - better)


def concluded_from(learned: FromLog, weight: float, c_ref: float) -> Conclusion:
    """What `xrouter train` and `xrouter learn` conclude_from_log."""
    return conclude_from_log(
        learned,
        cost_weight=weight,
        c_ref_usd=c_ref,
    )


def expected(learned: FromLog, test: OutcomeGrid) -> Predictions:
    """What the checkpoint expects of the test's prompts, by serving's own reading; a card that the
    log does not know can't be chosen."""
    head = export_head(learned.features, learned.model, learned.table.cost, learned.table.models)
    mean_M = np.array([np.nanmean(c) for c in learned.table.cost.T])
    readings = [head.read(prompt) for prompt in test.prompts]
    quality, cost = np.full((2, *test.score.shape), np.nan)
    for m, name in enumerate(test.models):
        if name in head.cards:
            at = head.cards.index(name)
            quality[:, m] = [reading.quality[name] for reading in readings]
            cost[:, m] = [reading.cost_ratio[name] * mean_M[at] for reading in readings]
    unknown = np.isnan(quality)
    return Predictions(np.where(unknown, -1e9, quality), np.where(unknown, 1e9, cost))


def best_told(log: Log, weight: float, c_ref: float) -> int | None:
    """The card with the highest utility by the log's own self-normalised estimate."""
    table = log.table
    right = (table.score - 0.1) / 0.8
    scored = np.isfinite(right)
    weights = np.where(scored, 1.0 / np.asarray(table.more["propensity"], dtype=np.float64), 0.0)
    found: dict[int, float] = {}
    for m in range(len(table.models)):
        own = scored[:, m]
        if own.sum() < _TOLD:
            continue
        mean = (weights[own, m] * right[own, m]).sum() / weights[own, m].sum()
        found[m] = float(mean - weight * np.nanmean(table.cost[:, m]) / c_ref)
    return max(found, key=lambda m: found[m]) if found else None


def shares_of_gain(
    whole: OutcomeGrid,
    *,
    seeds: int,
    sizes: Sequence[int],
    pools: Sequence[int],
    exploration: float,
    say: Callable[[str], None],
) -> list[GainShare]:
    """The curve over requests and pools, of logs by rules with so much exploration."""
    found = []
    settings = LogSettings("rules", exploration)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        for cards in pools:
            models = sorted(rng.permutation(list(whole.models))[:cards].tolist())
            pool = whole.complete(models)
            train, test = random_split(pool, seed=seed)
            reference = Reference.of(train)
            full = _gain(_expected_by_all(train, test), test, reference)
            for size in sizes:
                say(f"seed {seed}: {cards} cards, {size} requests")
                log = make_log(train, settings, reference, requests=size, seed=seed)
                learned = _learned(log)
                gain = 0.0 if learned is None else _gain(expected(learned, test), test, reference)
                found.append(
                    GainShare(cards, size, gain / full if full > 0 else np.nan, gain, full)
                )
    return found


def _expected_by_all(train: OutcomeGrid, test: OutcomeGrid) -> Predictions:
    """By a head that learned from every outcome, without labels."""
    from benchmarks.quality_rows import unlabelled_head

    return unlabelled_head(train, test.prompts)


def _gain(predictions: Predictions, test: OutcomeGrid, reference: Reference) -> float:
    curve = predicted_curve("learned", predictions, test, c_ref=reference.c_ref)
    sample = resample(curve, test, reference, draws=1, seed=0)
    return float((sample.aiq - sample.zero_aiq)[0])


def _taken(utility: Floats, predicted: Predictions, weight: float, c_ref: float) -> Floats:
    taken = (predicted.quality - weight * predicted.cost / c_ref).argmax(1)
    found: Floats = utility[np.arange(len(utility)), taken]
    return found
