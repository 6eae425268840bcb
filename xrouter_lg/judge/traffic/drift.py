"""Has live traffic moved away from what a checkpoint was trained on?

Candidates, prices, prompts and outcomes are each compared with the manifest. A check alarms only if
what moved is large (the thresholds below) and not what chance gives; it is ``unknown`` where the
manifest or the traffic doesn't tell. Each thread counts once: its requests are alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2

from xrouter_lg.arrays import Floats
from xrouter_lg.checkpoints.family_head import FamilyHead
from xrouter_lg.checkpoints.manifest import Manifest
from xrouter_lg.checkpoints.parts import CardStats
from xrouter_lg.figures.bootstrap import figure
from xrouter_lg.fitting.trained_on import length_of, shares_in
from xrouter_lg.judge.traffic.checks import (
    CHANCE,
    DRAWS,
    MIN_CALLS,
    RETRAIN,
    SEED,
    Check,
    measured,
)
from xrouter_lg.judge.traffic.logged import LiveRequest, ratio_of_means
from xrouter_lg.judge.traffic.success import check_changes, check_outcomes
from xrouter_lg.policies.utility import trust
from xrouter_lg.pool.pool import ModelPool
from xrouter_lg.pool.pricing import Price
from xrouter_lg.route_record import RouteRecord
from xrouter_lg.types import TokenUsage

PRICE_RATIO = 1.25
"""A price this many times the trained one, or its inverse."""
COST_RATIO = 2.0
"""Mean USD per call, where no price was recorded: the whole 95 % interval must lie beyond."""
PROMPT_DISTANCE = 0.15
"""Total variation between traffic and training prompts, 0 to 1, with a chance below CHANCE."""
FOREIGN_SHARE = 0.2
"""Share of threads whose words the checkpoint does not know: it routes them by overall means."""
MIN_THREADS = 50
"""Threads below which prompts are not compared."""

_TOKENS = TokenUsage(input_tokens=300, output_tokens=300)
"""By which two prices of a card are compared."""


@dataclass(frozen=True)
class DriftReport:
    """What moved. ``alarm`` if any check does."""

    checkpoint: str
    requests: int
    threads: int
    decided: int
    """Requests that this checkpoint decided."""
    checks: tuple[Check, ...]

    @property
    def alarm(self) -> bool:
        return any(check.status == "alarm" for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"alarm": self.alarm, **asdict(self)}


def find_drift(
    manifest: Manifest,
    head: FamilyHead | None,
    requests: Sequence[LiveRequest],
    *,
    pool: ModelPool | None = None,
    earlier: Sequence[RouteRecord] = (),
) -> DriftReport:
    """Compare requests with a checkpoint. ``pool`` is the one that serves today, where known;
    ``earlier`` are records from before these requests, to see a model change behind its card."""
    version = manifest.version
    texts = [(r.text, r.thread) for r in requests if r.text is not None]
    checks = [
        *check_candidates(manifest, requests, pool),
        *check_models(requests, earlier),
        *check_prices(manifest, requests, pool, head),
        *check_prompts(manifest, [t for t, _ in texts], [thread for _, thread in texts], head),
        *check_outcomes([r for r in requests if r.record.policy_version == version]),
        *check_changes(requests),
    ]
    return DriftReport(
        checkpoint=version,
        requests=len(requests),
        threads=len({r.thread for r in requests}),
        decided=sum(r.record.policy_version == version for r in requests),
        checks=tuple(checks),
    )


def check_candidates(
    manifest: Manifest, requests: Sequence[LiveRequest], pool: ModelPool | None
) -> Iterator[Check]:
    """Cards that joined or left."""
    trained = {card.name for card in (*manifest.cards, *manifest.added)}
    if pool is not None:
        present, where = set(pool.names), "the pool"
    else:
        present = {name for r in requests for name in (*r.record.candidates, *r.record.removed)}
        where = "any request"
    if not present:
        yield Check("candidates", "unknown", "no request, and no pool was given")
        return
    new, gone = sorted(present - trained), sorted(trained - present)
    if new:
        yield Check(
            "candidates added",
            "alarm",
            f"{', '.join(new)}: unknown to the checkpoint, routed by the mean of the others",
            float(len(new)),
            0.0,
            "Ask a new card a probe set and add it (`python -m xrouter_lg.fitting.new_card`), "
            "or train again with it.",
        )
    if gone:
        yield Check(
            "candidates removed",
            "alarm",
            f"{', '.join(gone)}: trained, but in {where} no more",
            float(len(gone)),
            0.0,
            "If that is meant to last, judge again without them (`xrouter judge --models ...`): "
            "dial and verdict were measured with them.",
        )
    if not new and not gone:
        yield Check("candidates", "ok", f"the {len(trained)} trained cards", 0.0, 0.0)


def check_models(
    requests: Sequence[LiveRequest], earlier: Sequence[RouteRecord]
) -> Iterator[Check]:
    """Another model behind a card of the same name."""
    now, before = _models(r.record for r in requests), _models(earlier)
    compared = sorted(now.keys() & before.keys())
    if not compared:
        yield Check("models", "unknown", "no earlier calls of the same cards to compare with")
        return
    moved = [card for card in compared if now[card] - before[card]]
    for card in moved:
        was, is_now = ", ".join(sorted(before[card])), ", ".join(sorted(now[card] - before[card]))
        yield Check(
            f"model of {card}",
            "alarm",
            f"answers as {is_now}; before as {was}",
            advice=f"What was learned of {card} is another model's: backfill it on recent prompts "
            "and train again, or give it a name of its own.",
        )
    if not moved:
        yield Check("models", "ok", f"the same behind {', '.join(compared)}")


def check_prices(
    manifest: Manifest,
    requests: Sequence[LiveRequest],
    pool: ModelPool | None,
    head: FamilyHead | None,
) -> Iterator[Check]:
    """Prices, or where none were recorded the cost of a call."""
    calls = list(_calls(requests))
    for stats in (*manifest.cards, *manifest.added):
        mine = [call for call in calls if call[1]["card"] == stats.name]
        if stats.price is not None:
            yield _price(stats, [charge for _, charge in mine], pool)
        else:
            yield _cost(stats, mine, head)


def _price(stats: CardStats, charges: Sequence[Mapping[str, Any]], pool: ModelPool | None) -> Check:
    name = f"price of {stats.name}"
    assert stats.price is not None
    trained = Price.parse(stats.price, where=f"manifest, card {stats.name}")
    now = then = 0.0
    today = None
    if pool is not None and stats.name in pool:
        today = pool[stats.name].effective_price
    if today is not None:
        now = float(Price.cost(today.at(_TOKENS.input_tokens), _TOKENS) or 0)
        then = float(Price.cost(trained.at(_TOKENS.input_tokens), _TOKENS) or 0)
        source = "in the pool"
    else:
        for charge in charges:
            usage = TokenUsage(**charge["usage"])
            expected = Price.cost(trained.at(usage.input_tokens), usage)
            if expected is not None:
                now, then = now + float(charge["cost_usd"]), then + float(expected)
        source = f"in {len(charges)} calls"
    if then <= 0 and now <= 0:
        said = "free, as trained" if today is not None or charges else "no call was paid for"
        return Check(name, "ok" if today is not None or charges else "unknown", said)
    ratio = now / then if then > 0 else math.inf
    return _by_ratio(
        name,
        ratio,
        PRICE_RATIO,
        f"× {ratio:.3g} {source}",
        beyond=not 1 / PRICE_RATIO <= ratio <= PRICE_RATIO,
    )


def _cost(
    stats: CardStats,
    calls: Sequence[tuple[LiveRequest, Mapping[str, Any]]],
    head: FamilyHead | None,
) -> Check:
    name = f"cost of a call of {stats.name}"
    threads = [request.thread for request, _ in calls]
    if len(set(threads)) < MIN_CALLS:
        return Check(
            name,
            "unknown",
            f"the manifest has no price of it, and {len(set(threads))} threads called it "
            f"({MIN_CALLS} are needed)",
        )
    if stats.cost_usd <= 0:
        return Check(name, "unknown", "the manifest has neither price nor cost of it")
    paid = np.array([float(charge["cost_usd"]) for _, charge in calls])
    usual = np.array([stats.cost_usd * _ratio(head, request, stats.name) for request, _ in calls])
    found = figure(ratio_of_means(paid, usual, threads, draws=DRAWS, seed=SEED))
    assert found.value is not None and found.low is not None and found.high is not None
    return _by_ratio(
        name,
        found.value,
        COST_RATIO,
        f"× {found.value:.3g} [{found.low:.3g}, {found.high:.3g}] of what it was in training",
        beyond=found.low > COST_RATIO or found.high < 1 / COST_RATIO,
    )


def _by_ratio(name: str, ratio: float, threshold: float, said: str, *, beyond: bool) -> Check:
    advice = (
        "Decisions follow a price of the pool at once. Check that the pool's price is right, then "
        "judge again: dial, verdict and quality targets were measured at the old one."
    )
    return measured(name, said, ratio, threshold, beyond, f"beyond × {threshold:g}", advice)


def check_prompts(
    manifest: Manifest,
    texts: Sequence[str],
    threads: Sequence[str],
    head: FamilyHead | None,
) -> Iterator[Check]:
    """Do the prompts look like those of training: length, words, kinds of task?"""
    counts = Counter(threads)
    if len(counts) < MIN_THREADS:
        yield Check(
            "prompts",
            "unknown",
            f"{len(counts)} threads with texts; {MIN_THREADS} are needed",
        )
        return
    weights = np.array([1.0 / counts[thread] for thread in threads])
    read = None if head is None else [head.probabilities(text) for text in texts]
    size, trained = float(len(counts)), float(manifest.reference.get("prompts", 0))
    old = "the checkpoint was written without it: the next one that is trained will have it"
    for key, values in (
        ("length", [length_of(text) for text in texts]),
        ("known", None if read is None else [known for _, known in read]),
    ):
        told = manifest.reference.get(key)
        name = {"length": "length of prompts", "known": "words of prompts"}[key]
        if told is None or values is None:
            lacks = "it has no family head" if read is None and key == "known" else old
            yield Check(name, "unknown", f"no reference: {lacks}")
            continue
        now = np.array(shares_in(values, told["edges"], weights.tolist()))
        then = np.array(told["shares"])
        if key == "known" and now.cumsum().sum() <= then.cumsum().sum():
            # Known better than the training requests knew each other: the same come again.
            yield Check(name, "ok", "known as well as in training, or better", 0.0, PROMPT_DISTANCE)
            continue
        yield _distance(name, now, then, size, trained)
    stats = manifest.family_head
    if stats is None or read is None or head is None:
        yield Check("kinds of task", "unknown", "the checkpoint has no family head")
        return
    head_share = manifest.reference.get("families")
    if head_share is not None:
        # The reference is of the first partition, by which reports tell requests apart.
        first = len(head.partition)
        now = (weights @ np.array([shares for shares, _ in read]))[:first]
        then = np.array([head_share.get(name, 0.0) for name in stats.families[:first]])
        yield _distance("kinds of task", now / now.sum(), then, size, trained)
    else:
        yield Check("kinds of task", "unknown", f"no reference: {old}")
    certain = np.array([trust(stats, known) for _, known in read])
    foreign = float((weights * (certain < 0.5)).sum() / weights.sum())
    said = f"{foreign:.0%} of the threads lie far from the training prompts"
    yield measured(
        "foreign prompts",
        said,
        foreign,
        FOREIGN_SHARE,
        foreign > FOREIGN_SHARE,
        f"above {FOREIGN_SHARE:.0%}",
        f"Those are routed by each card's overall mean. {RETRAIN}",
    )


def _distance(name: str, now: Floats, then: Floats, size: float, trained: float) -> Check:
    """Total variation, with the chance of as much (Pearson's chi-square of two samples)."""
    distance = float(np.abs(now - then).sum() / 2)
    both = (size * now + trained * then) / (size + trained)
    used = both > 0
    spread = both[used] * (1 / size + 1 / max(trained, 1.0))
    statistic = float(((now - then)[used] ** 2 / spread).sum())
    chance = float(chi2.sf(statistic, max(used.sum() - 1, 1)))
    said = f"distance {distance:.2f} from training"
    beyond = distance > PROMPT_DISTANCE and chance < CHANCE
    limit = f"above {PROMPT_DISTANCE:g} (chance of as much: {chance:.1g})"
    return measured(name, said, distance, PROMPT_DISTANCE, beyond, limit, RETRAIN)


def _calls(
    requests: Sequence[LiveRequest],
) -> Iterator[tuple[LiveRequest, Mapping[str, Any]]]:
    """Workers' charges of known usage and cost."""
    for request in requests:
        for charge in request.record.charges:
            known = charge.get("usage") is not None and charge.get("cost_usd") is not None
            if charge.get("kind") == "worker" and known and charge.get("error") is None:
                yield request, charge


def _models(records: Any) -> dict[str, set[str]]:
    """Model and served model by card."""
    found: dict[str, set[str]] = {}
    for record in records:
        for charge in record.charges:
            if charge.get("kind") == "worker" and charge.get("error") is None:
                served = charge.get("served_model") or charge.get("model")
                found.setdefault(str(charge["card"]), set()).add(str(served))
    return found


def _ratio(head: FamilyHead | None, request: LiveRequest, card: str) -> float:
    """Expected cost of a card on this request over its mean."""
    if head is None or request.text is None:
        return 1.0
    return float(head.read(request.text).cost_ratio.get(card, 1.0))
