"""Nobody has told the kind of task of any request: what families found from words are worth.

Half of the table's prompts is learned from, or so many of them as are named, with all outcomes; the
other half judges. Beside it: the same with labels, kNN, and a policy that is told every label.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.quality_rows import NO_LABELS, Kept, builders_of
from xrouter_lg.figures.metrics import Reference
from xrouter_lg.judge.gate.compare import row_of, unseen_gain
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.outcomes.split import random_split

POLICIES = (NO_LABELS, "family head", "kNN", "told the label")
FEW = (100, 200, 400, 800)


@dataclass(frozen=True)
class Unlabelled:
    """One policy, over half splits."""

    name: str
    prompts: int
    """Learned from."""
    gain: float
    """In AIQ over the zero router."""
    error: float
    """Standard error of it."""
    parity: float
    """Median; NaN where it never comes up to the best fixed model."""


def on_half_splits(
    whole: OutcomeGrid,
    *,
    splits: int,
    few: Sequence[int] = FEW,
    draws: int,
    kept: Kept,
    say: Callable[[str], None],
) -> list[Unlabelled]:
    """Every policy on whole halves, and the head without labels on few prompts."""
    found: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for seed in range(splits):
        train, test = random_split(whole, seed=seed)
        some = np.random.default_rng(seed).permutation(len(train))
        cases = [(NO_LABELS, train.rows(some[:count])) for count in few if count < len(train)]
        cases += [(name, train) for name in POLICIES]
        for name, known in cases:
            say(f"split {seed + 1} of {splits}: {name}, {len(known)} prompts")
            # Figures are counted in the same unit however little is learned from.
            reference = Reference.of(train)
            curve = kept.around(name, builders_of(whole.models)[name])(known, test, reference)
            row = row_of(curve, test, reference, draws=draws, seed=seed)
            parity = np.nan if row.parity.value is None else row.parity.value
            found.setdefault((name, len(known)), []).append((row.gain.value or 0.0, parity))
    rows = []
    for (name, count), results in found.items():
        gain, parity = np.array(results).T
        error = float(gain.std(ddof=1) / np.sqrt(splits)) if splits > 1 else float("nan")
        rows.append(Unlabelled(name, count, float(gain.mean()), error, float(np.median(parity))))
    return rows


def on_strangers(whole: OutcomeGrid, *, draws: int, kept: Kept) -> dict[str, str]:
    """The head without labels on kinds of task, and whole tasks, that it never saw."""
    build = kept.around(NO_LABELS, builders_of(whole.models)[NO_LABELS])
    found = {}
    for name, depth in (("kinds never seen", None), ("tasks never seen", 2)):
        value = unseen_gain(whole, build, depth=depth, draws=draws, seed=0)
        if value is not None:
            found[name] = f"{value.value:+.4f} [{value.low or 0.0:+.4f}, {value.high or 0.0:+.4f}]"
    return found
