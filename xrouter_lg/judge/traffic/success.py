"""Does each card do what the checkpoint expected of it, and what it did before?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.stats import norm

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.bootstrap import figure
from xrouter_lg.judge.traffic.checks import CHANCE, DRAWS, MIN_CALLS, RETRAIN, SEED, Check, measured
from xrouter_lg.judge.traffic.logged import LiveRequest, ratio_of_means
from xrouter_lg.value.change import ALARM, Change, find_change

OUTCOME_GAP = 0.1
"""Mean of score minus predicted score of a card."""
_HAZARD = 1 / 1000
"""Chance of a silent change per scored request; see :mod:`xrouter_lg.value.change`."""


def check_outcomes(requests: Sequence[LiveRequest]) -> Iterator[Check]:
    """Does each card score what the checkpoint expected of it, where it was chosen?

    A policy picks what it overrates, so scores lie a little below what was expected even where
    nothing moved: the threshold leaves room for that.
    """
    enough = {
        card: [(score - expected, thread) for score, expected, thread in found]
        for card, found in _expectations(requests).items()
        if len({thread for *_, thread in found}) >= MIN_CALLS
    }
    if not enough:
        yield Check(
            "outcomes",
            "unknown",
            f"no card has scores of {MIN_CALLS} threads that this checkpoint decided: name the "
            "feedback (--feedback) or an outcome table (--outcomes)",
        )
    for card, found in enough.items():
        gaps = np.array([gap for gap, _ in found])
        threads = [thread for _, thread in found]
        samples = ratio_of_means(gaps, np.ones(len(gaps)), threads, draws=DRAWS, seed=SEED)
        mean = figure(samples)
        assert mean.value is not None and mean.low is not None and mean.high is not None
        error = max(float(samples[1:].std()), 1e-9)
        chance = 2 * float(norm.sf(abs(mean.value) / error)) * len(enough)  # of all cards together
        said = f"{mean.value:+.3f} [{mean.low:+.3f}, {mean.high:+.3f}] against what was expected"
        yield measured(
            f"success of {card}",
            said,
            mean.value,
            OUTCOME_GAP,
            abs(mean.value) > OUTCOME_GAP and chance < CHANCE,
            f"beyond ± {OUTCOME_GAP:g}",
            f"{card} is {'better' if mean.value > 0 else 'worse'} than it was in training, or "
            f"asked other things. {RETRAIN}",
        )


def check_changes(requests: Sequence[LiveRequest]) -> Iterator[Check]:
    """Did a card become another while these requests came in, whatever was expected of it?

    Whoever decided: a provider that swaps a model does it for every policy.
    """
    for card, found in _expectations(requests).items():
        # A thread counts once: its requests are alike.
        first = list(
            {thread: (score, expected) for score, expected, thread in found[::-1]}.values()
        )
        change = change_since(*np.array(first[::-1]).T)
        if change.at >= len(first):
            continue  # too few to tell
        said = f"{change.size:+.3f} with probability {change.probability:.2f}"
        if change.alarm:
            said += f", {len(first) - change.at} scored threads ago"
        yield measured(
            f"change of {card}",
            said,
            change.probability,
            ALARM,
            change.alarm,
            f"from a probability of {ALARM:g}",
            f"{card} is no longer the model that it was. `xrouter learn` forgets what was known of "
            "it and learns anew; explore meanwhile (exploration=0.05), or take it out of the pool.",
        )


def change_since(score_R: Floats, expected_R: Floats) -> Change:
    """Whether a card's scores have moved against what was expected of it, in order of time."""
    spread_R = np.clip(expected_R, 0.05, 0.95)
    return find_change(score_R - expected_R, spread_R * (1.0 - spread_R), hazard=_HAZARD)


def _expectations(
    requests: Sequence[LiveRequest],
) -> dict[str, list[tuple[float, float, str]]]:
    """Score, expected score and thread of each card's answers, where both are known."""
    rows: dict[str, list[tuple[float, float, str]]] = {}
    for request in requests:
        card = str(request.record.route)
        expected = (request.first.get("quality") or {}).get(card)
        if request.score is not None and expected is not None and request.single:
            rows.setdefault(card, []).append((request.score, float(expected), request.thread))
    return dict(sorted(rows.items()))
