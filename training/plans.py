"""Learn plans of one to three calls from recorded answers (:mod:`xrouter_lg.policies.plans`).

    python -m training.plans --outcomes FOLDER --output plans.safetensors
    python -m training.plans --outcomes FOLDER --splits 10      # how good is it, on half splits

The folder holds an outcome table with responses. Every single card and every pair with every
escalation is a plan: with twelve cards 804. Kept are the singles and the plans near the hull of all
of them over the training prompts: with a hundred prompts of a kind, the best of a thousand plans is
mostly lucky. What a kept plan gives in a family is shrunk towards what it gives over everything.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl

from training.family_head import fit_family_head
from training.judge.baselines.base import group_means
from training.judge.curve import DIAL, Curve, choose
from training.judge.hull import hull_of
from training.judge.metrics import Reference, resample
from training.judge.table import KEY, Bools, Floats, Ints, Paired, random_split, read_paired
from xrouter_lg.policies.plans import Plan, PlanTable
from xrouter_lg.pool import normalise_name
from xrouter_lg.prompts.slots import final_answer

NEAR = 0.005
"""Score by which a kept plan may lie below the hull."""
STRENGTH = 60.0
"""Prompts' worth of a plan's overall mean in its mean per family."""


@dataclass(frozen=True)
class Played:
    """What every plan gives on every prompt."""

    plans: tuple[Plan, ...]
    score_P_N: Floats
    usd_P_N_M: Floats
    """Spent per card."""


def agreement(responses: Sequence[Sequence[str | None]]) -> Bools:
    """[N, M, M]: whether two cards' final answers are the same; no answer agrees with nothing."""
    prompts, cards = len(responses), len(responses[0])
    same = np.zeros((prompts, cards, cards), dtype=np.bool_)
    for n, row in enumerate(responses):
        finals = np.array([final_answer(text or "") for text in row])
        same[n] = (finals[:, None] == finals[None, :]) & (finals[:, None] != "")
    return same


def play(table: Paired, same_N_M_M: Bools, cards: Sequence[str]) -> Played:
    """Carry out every plan on every recorded prompt; each call made is paid."""
    score, cost = table.score, table.cost
    prompts, width = score.shape
    plans, scores, usds = [], [], []

    def add(plan: Plan, got: Floats, paid: Mapping[int, Floats]) -> None:
        usd = np.zeros((prompts, width), dtype=np.float32)
        for m, values in paid.items():
            usd[:, m] = values
        plans.append(plan)
        scores.append(got)
        usds.append(usd)

    for m in range(width):
        add(Plan(cards[m]), score[:, m], {m: cost[:, m]})
    for a, b in combinations(range(width), 2):
        agree = same_N_M_M[:, a, b]
        for c in range(width):
            paid = {a: cost[:, a], b: cost[:, b]}
            if c not in (a, b):
                paid[c] = np.where(agree, 0.0, cost[:, c])
            add(
                Plan(cards[a], cards[b], cards[c]),
                np.where(agree, score[:, a], score[:, c]),
                paid,
            )
    return Played(tuple(plans), np.array(scores), np.array(usds))


def near_hull(played: Played, rows: Ints) -> Ints:
    """Plans that are singles, or lie within ``NEAR`` below the hull over these prompts."""
    x = played.usd_P_N_M[:, rows].sum(2).mean(1).astype(np.float64)
    y = played.score_P_N[:, rows].mean(1)
    hull = hull_of(x, y)
    below = np.interp(x, hull[:, 0], hull[:, 1]) - y
    single = np.array([plan.second is None for plan in played.plans])
    kept: Ints = np.flatnonzero(single | (below <= NEAR))
    return kept


def fit_plans(
    table: Paired,
    responses: Sequence[Sequence[str | None]],
    *,
    prices: Mapping[str, Mapping[str, str]] | None = None,
) -> PlanTable:
    """Plans learned from all prompts of a table and their recorded answers [N][M].

    Raises:
        ValueError: fewer than two families, or answers of another shape.
    """
    if len(responses) != len(table) or any(len(row) != len(table.models) for row in responses):
        raise ValueError(f"answers must be {len(table)} rows of {len(table.models)}")
    cards = [normalise_name(name) for name in table.models]
    head = fit_family_head(table.prompts, table.families, table.score, table.cost, cards)
    if head is None:
        raise ValueError("the prompts are all of one family; plans are chosen by family")
    played = play(table, agreement(responses), cards)
    kept = near_hull(played, np.arange(len(table)))
    quality_F_P = group_means(played.score_P_N[kept].T, table.families, strength=STRENGTH)
    flat = played.usd_P_N_M[kept].transpose(1, 0, 2).reshape(len(table), -1).astype(np.float64)
    usd_F_P_M = group_means(flat, table.families, strength=STRENGTH)
    return PlanTable(
        head=head,
        plans=tuple(played.plans[p] for p in kept),
        quality_F_P=quality_F_P.astype(np.float32),
        usd_F_P_M=usd_F_P_M.reshape(-1, len(kept), len(cards)).astype(np.float32),
        c_ref_usd=table.reference_cost(),
        prices=prices or {},
    )


def plan_curve(
    learned: PlanTable, test: Paired, responses: Sequence[Sequence[str | None]]
) -> Curve:
    """The learned plans at every cost weight of the dial, on recorded answers."""
    played = play(test, agreement(responses), [normalise_name(name) for name in test.models])
    number = {plan: p for p, plan in enumerate(played.plans)}
    at = np.array([number[plan] for plan in learned.plans])
    shares = [learned.head.probabilities(prompt)[0] for prompt in test.prompts]
    expected = [learned.expected(row) for row in shares]
    quality_N_P = np.array([quality for quality, _ in expected])
    usd_N_P = np.array([usd for _, usd in expected])
    rows = np.arange(len(test))
    scores, costs = [], []
    for weight in DIAL:
        chosen = at[choose(quality_N_P, usd_N_P, weight, learned.c_ref_usd)]
        scores.append(played.score_P_N[chosen, rows])
        costs.append(played.usd_P_N_M[chosen, rows].sum(1).astype(np.float64))
    return Curve("plans", np.array(DIAL), np.array(scores), np.array(costs))


def read_answers(outcomes: Path, table: Paired) -> list[list[str | None]]:
    """Recorded answers [N][M] in the table's order; None where one is missing."""
    frame = pl.read_parquet(outcomes, columns=[*KEY, "model", "response"])
    keys = frame.select(pl.concat_str(KEY, separator="|")).to_series()
    found = dict(zip(zip(keys, frame["model"], strict=True), frame["response"], strict=True))
    return [[found.get((key, model)) for model in table.models] for key in table.prompt_ids]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 when the table can't be used."""
    parser = argparse.ArgumentParser(description="Learn plans of calls from recorded answers.")
    parser.add_argument("--outcomes", type=Path, required=True, help="folder of an outcome table")
    parser.add_argument("--output", type=Path, help="the plan file to write")
    parser.add_argument("--splits", type=int, default=0, help="judge on this many half splits")
    options = parser.parse_args(argv)
    try:
        outcomes = options.outcomes / "outcomes.parquet"
        table = read_paired(outcomes, options.outcomes / "prompts.parquet")
        answers = read_answers(outcomes, table)
        row_of = {name: n for n, name in enumerate(table.prompt_ids)}
        gains, parities = [], []
        for seed in range(options.splits):
            train, test = random_split(table, seed=seed)
            learned = fit_plans(train, [answers[row_of[name]] for name in train.prompt_ids])
            curve = plan_curve(learned, test, [answers[row_of[name]] for name in test.prompt_ids])
            sample = resample(curve, test, Reference.of(train), draws=1)
            gains.append(float((sample.aiq - sample.zero_aiq)[0]))
            parities.append(float(sample.parity[0]))
            print(f"split {seed}: gain {gains[-1]:+.4f}, parity {parities[-1]:.0%}")
        if gains:
            spread = float(np.std(gains, ddof=1)) if len(gains) > 1 else float("nan")
            print(
                f"gain over the zero router {np.mean(gains):+.4f} ± {spread:.4f} (standard "
                f"deviation over splits), median parity {np.median(parities):.0%}"
            )
        if options.output is not None:
            learned = fit_plans(table, answers)
            learned.save(options.output)
            print(f"{options.output}: {len(learned.plans)} plans of {len(table.models)} cards")
    except (ValueError, OSError, pl.exceptions.PolarsError) as error:
        print(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
