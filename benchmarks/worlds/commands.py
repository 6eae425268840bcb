"""`quality.py --world ...`: what users' own outcomes are worth, as tables, pictures and a line."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality_rows import NO_LABELS, TASKS, Kept
from benchmarks.results import append, show
from benchmarks.worlds import bought, one_sided, unlabelled
from benchmarks.worlds.pictures import draw_shares
from xrouter_lg.judge.estimates import cache_folder

SIZES, POOLS = (1_000, 2_000, 5_000, 10_000), (3, 5, 10)
_REQUESTS = 2_000
_EXPLORED = 0.1


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def bought_world(options: argparse.Namespace) -> str:
    """The curve of what buying answers is worth."""
    table = TASKS[options.task].read(options.data)
    full, rows = bought.shares(table, splits=options.splits, say=say)
    _kept(options, {"full_gain": full, "shares": [asdict(row) for row in rows]})
    show(
        f"{options.task}: share of the full-information gain ({full:+.4f}) by share of what all "
        f"answers cost, {options.splits} half splits [95 %]",
        ["known at first", "bought", *(f"{budget:.0%}" for budget in bought.BUDGETS)],
        [
            [log, way, *(_of_full(row) for row in rows if (row.log, row.way) == (log, way))]
            for log in bought.LOGS
            for way in bought.WAYS
        ],
    )
    if options.picture is not None and not bought.draw_curves(options.picture, rows):
        say("no picture: matplotlib is not installed")
    ours = [row for row in rows if row.way == bought.WAYS[0] and row.budget == 0.2]
    return "; ".join(f"20 % from {row.log}: {_of_full(row)} of {full:+.4f}" for row in ours)


def _of_full(row: bought.Share) -> str:
    return f"{row.share:.0%} [{row.low:.0%}, {row.high:.0%}]"


def unlabelled_world(options: argparse.Namespace) -> str:
    """Families from words beside labels, with many prompts and with few."""
    table = TASKS[options.task].read(options.data)
    kept = Kept(None if options.no_cache else cache_folder() / "curves")
    rows = unlabelled.on_half_splits(
        table, splits=options.splits, draws=options.draws, kept=kept, say=say
    )
    strange = unlabelled.on_strangers(table, draws=options.draws, kept=kept)
    _kept(options, {"rows": [asdict(row) for row in rows], "strangers": strange})
    show(
        f"{options.task}: gain in AIQ over the zero router ± its standard error, "
        f"{options.splits} half splits",
        ["policy", "prompts", "gain", "parity (median)"],
        [[r.name, str(r.prompts), f"{r.gain:+.4f} ± {r.error:.4f}", f"{r.parity:.0%}"]
         for r in rows],
    )  # fmt: skip
    for name, gain in strange.items():
        print(f"{NO_LABELS}, {name}: {gain}")
    said = [f"{r.name} of {r.prompts}: {r.gain:+.4f} ± {r.error:.4f}, {r.parity:.0%}" for r in rows]
    return "; ".join([*said, *(f"{name} {gain}" for name, gain in strange.items())])


def one_sided_world(options: argparse.Namespace) -> str:
    """What is concluded from logs of one answer per request, and what following it is worth."""
    table = TASKS[options.task].read(options.data)
    rows = one_sided.follow(table, seeds=options.splits, requests=_REQUESTS, say=say)
    curve = one_sided.shares_of_gain(
        table,
        seeds=options.splits,
        sizes=SIZES,
        pools=POOLS,
        exploration=_EXPLORED,
        say=say,
    )
    _kept(options, {"followed": [asdict(r) for r in rows], "shares": [asdict(r) for r in curve]})
    shown, worst, below = [], 0.0, 0
    for name in dict.fromkeys(row.log for row in rows):
        own = [row for row in rows if row.log == name]
        uses = {use: sum(row.use == use for row in own) for use in ("checkpoint", "fixed")}
        less = [row.over_better for row in own]
        worst, below = min(worst, *less), below + sum(gap < -0.003 for gap in less)
        shown.append(
            [
                name,
                f"{uses['checkpoint']}, {uses['fixed']} of {len(own)}",
                f"{np.mean([row.over_log for row in own]):+.4f}",
                f"{min(row.over_log for row in own):+.4f}",
                f"{np.mean(less):+.4f}",
                f"{min(less):+.4f}",
                f"{np.mean([row.possible for row in own]):+.4f}",
            ]
        )
    show(
        f"{options.task}: utility of following the conclusion at λ = 0.05, 0.2, 0.5, "
        f"{options.splits} half splits, {_REQUESTS} requests",
        ["log", "promoted, one card", "over the log", "least", "over the better of log and told "
         "card", "least", "of all outcomes"],
        shown,
    )  # fmt: skip
    shares = _shares(curve)
    show(
        f"Share of the full-information gain, logs by rules with {_EXPLORED:.0%} exploration "
        "(± standard error)",
        ["cards", *(f"{size:,} requests" for size in SIZES)],
        [[str(cards), *(_mean(shares[cards, size]) for size in SIZES)] for cards in POOLS],
    )
    if options.picture is not None and not draw_shares(options.picture, shares):
        say("no picture: matplotlib is not installed")
    most = "; ".join(f"{cards} cards, {SIZES[-1]:,}: {_mean(shares[cards, SIZES[-1]])}"
                     for cards in POOLS)  # fmt: skip
    over = float(np.mean([row.over_log for row in rows]))
    return (
        f"{len(rows)} conclusions: over the log {over:+.4f}, least "
        f"{min(row.over_log for row in rows):+.4f}; below the better of log and told card by more "
        f"than 0.003: {below}, worst {worst:+.4f}; share of the full gain: {most}"
    )


def _shares(curve: list[one_sided.GainShare]) -> dict[tuple[int, int], list[float]]:
    found: dict[tuple[int, int], list[float]] = {}
    for row in curve:
        if np.isfinite(row.share):
            found.setdefault((row.cards, row.requests), []).append(row.share)
    return found


def _mean(values: list[float]) -> str:
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{np.mean(values):.0%} ± {error:.0%}"


WORLDS: dict[str, Callable[[argparse.Namespace], str]] = {
    "unlabelled": unlabelled_world,
    "one-sided": one_sided_world,
    "bought": bought_world,
}


def run_world(options: argparse.Namespace) -> int:
    """One of them, with its line in RESULTS.md."""
    started = time.perf_counter()
    line = WORLDS[options.world](options)
    if not options.json:
        append(f"{options.splits} splits, {time.perf_counter() - started:.0f} s; {line}")
    return 0


def _kept(options: argparse.Namespace, data: dict[str, Any]) -> None:
    text = json.dumps(data, indent=1, default=str)
    if options.output is not None:
        Path(options.output).parent.mkdir(parents=True, exist_ok=True)
        Path(options.output).write_text(text + "\n")
    if options.json:
        print(text)
