"""Two calls instead of one good guess: verify and escalate, or agree and accept.

A cascade's settings (which models, in which roles) are named on the train half as the vertices
of its hull, and paid on the test half. Every call made is charged, whoever's answer is returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, permutations

import numpy as np

from xrouter_lg.arrays import Bools, Floats, Ints
from xrouter_lg.figures.curve import Curve
from xrouter_lg.figures.hull import hull_of
from xrouter_lg.final_answer import final_answer
from xrouter_lg.outcomes.grid import OutcomeGrid

_Setting = tuple[Floats, Floats]
"""Scores and costs [N] of a fixed model, or of a cascade of certain models."""


def verify_cascade(
    train: OutcomeGrid,
    test: OutcomeGrid,
    accept_train: Bools,
    accept_test: Bools,
    *,
    dial: Sequence[float] | None = None,
) -> Curve:
    """Ask a cheap model; keep its answer if a verifier accepts it, else ask another one too.

    `accept_*` [N, M]: the verifier's verdict on each model's answer. With `score >= 1` the
    verifier is perfect, as unit tests or an exact checker at serving time would be: a bound for
    all others. The verifier itself is taken to be free. `dial`: as in `_on_hull`.
    """

    def settings(table: OutcomeGrid, accept: Bools) -> list[_Setting]:
        found = _fixed(table)
        for a, b in permutations(range(len(table.models)), 2):
            keep = accept[:, a]
            found.append(
                (
                    np.where(keep, table.score[:, a], table.score[:, b]),
                    table.cost[:, a] + np.where(keep, 0.0, table.cost[:, b]),
                )
            )
        return found

    return _on_hull(
        "verify cascade",
        settings(train, accept_train),
        settings(test, accept_test),
        train.reference_cost(),
        dial,
    )


def agreement_cascade(
    train: OutcomeGrid,
    test: OutcomeGrid,
    answers_train: Ints,
    answers_test: Ints,
    *,
    dial: Sequence[float] | None = None,
) -> Curve:
    """Ask two models at once; if their final answers agree keep one, else ask a third too.

    `answers_*` [N, M]: equal numbers are equal final answers within a prompt, −1 is no answer
    (which agrees with nothing). See `answer_ids`.
    """

    def settings(table: OutcomeGrid, answers: Ints) -> list[_Setting]:
        found = _fixed(table)
        models = range(len(table.models))
        for a, b in combinations(models, 2):
            agree = (answers[:, a] == answers[:, b]) & (answers[:, a] >= 0)
            both = table.cost[:, a] + table.cost[:, b]
            for c in models:
                # Escalating to one of the two pays nothing more: its answer is there already.
                extra = 0.0 if c in (a, b) else table.cost[:, c]
                found.append(
                    (
                        np.where(agree, table.score[:, a], table.score[:, c]),
                        both + np.where(agree, 0.0, extra),
                    )
                )
        return found

    return _on_hull(
        "agreement cascade",
        settings(train, answers_train),
        settings(test, answers_test),
        train.reference_cost(),
        dial,
    )


def _fixed(table: OutcomeGrid) -> list[_Setting]:
    return [(table.score[:, m], table.cost[:, m]) for m in range(len(table.models))]


def _on_hull(
    name: str,
    train: list[_Setting],
    test: list[_Setting],
    c_ref: float,
    dial: Sequence[float] | None,
) -> Curve:
    """The train half's best settings, paid on the test half: every vertex of its hull, or, with a
    `dial`, the best at each cost weight, so that curves of several folds have the same settings."""
    means = np.array([(cost.mean(), score.mean()) for score, cost in train])
    if dial is None:
        vertices = hull_of(means[:, 0], means[:, 1])
        at = [int(np.abs(means - vertex).sum(1).argmin()) for vertex in vertices]
        weights = np.arange(len(at), dtype=np.float64)
    else:
        weights = np.array(dial)
        at = [int((means[:, 1] - w * means[:, 0] / c_ref).argmax()) for w in weights]
    score, cost = (np.stack(side) for side in zip(*(test[i] for i in at), strict=True))
    return Curve(name, weights, score, cost)


def answer_ids(responses: Sequence[Sequence[str | None]]) -> Ints:
    """[N, M] numbers of the final answers: equal within a prompt when the answers are equal."""
    ids = np.full((len(responses), len(responses[0])), -1, dtype=np.int64)
    for n, row in enumerate(responses):
        seen: dict[str, int] = {}
        for m, text in enumerate(row):
            answer = final_answer(text)
            if answer:
                ids[n, m] = seen.setdefault(answer, len(seen))
    return ids
