"""What any router has to beat, behind one interface.

Learned ones are estimators (`fit(train).predict(prompts)`, then `choose` at each cost weight);
those that call several models, or none by name, come as curves (`cascades`, `curve`).
"""

from __future__ import annotations

from xrouter_lg.judge.baselines.base import Estimator, Fitted, Means
from xrouter_lg.judge.baselines.cascades import agreement_cascade, answer_ids, verify_cascade
from xrouter_lg.judge.baselines.family import PredictedFamily, ToldLabel
from xrouter_lg.judge.baselines.heads import LinearHead, LogisticHead
from xrouter_lg.judge.baselines.neighbours import Neighbours

__all__ = [
    "Estimator",
    "Fitted",
    "LinearHead",
    "LogisticHead",
    "Means",
    "Neighbours",
    "PredictedFamily",
    "ToldLabel",
    "agreement_cascade",
    "answer_ids",
    "standard_estimators",
    "verify_cascade",
]


def standard_estimators() -> tuple[Estimator, ...]:
    """The learned baselines of every report, strongest last but for the bound."""
    return (Neighbours(), LinearHead(), LogisticHead(), PredictedFamily(), ToldLabel())
