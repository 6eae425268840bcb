"""What every card would have earned on every prompt, as far as a log tells.

    score = m + (s − m) · min(1 / p, 5)  where s was seen with probability p,  m elsewhere

m is what the value model expects that has not seen the prompt (five folds). Doubly robust (Dudík et
al. 2011, arXiv 1103.4601): right on average where either the propensities or the value model are.
Where every card's outcome is known it is the outcome itself. A log that never explored corrects
nothing: there it is the value model's word, and learning from it teaches nothing new.
"""

from __future__ import annotations

import numpy as np

from training.data.outcome_source import RecordedOutcomes
from xrouter_lg.fitting.from_log import FromLog
from xrouter_lg.value.evidence import MOST_WEIGHT


def robust_outcomes(learned: FromLog) -> RecordedOutcomes:
    """Scores (which may lie outside [0, 1]) and costs in USD of all prompts × cards."""
    shape = learned.table.score.shape
    score, usd = np.zeros(shape), np.zeros(shape)
    shares = learned.model.shares(learned.features.plane_N_P)
    for chosen, fitted in learned.folds():
        expected = fitted.expect(tuple(share[chosen] for share in shares))
        score[chosen], usd[chosen] = expected.mean_N_M, expected.usd_N_M
    seen = learned.evidence
    at = (seen.prompt_R, seen.card_R)
    weight_R = np.minimum(1.0 / np.nan_to_num(seen.propensity_R, nan=1.0), MOST_WEIGHT)
    score[at] += (seen.right_R - score[at]) * weight_R * np.minimum(seen.worth_R, 1.0)
    paid = np.isfinite(learned.table.cost)
    usd = np.where(paid, learned.table.cost, usd)
    return RecordedOutcomes(score, usd)
