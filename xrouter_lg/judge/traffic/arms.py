"""The two arms of a canary, side by side.

A thread belongs to one arm whatever it asks, so threads are what is drawn: intervals are over them,
and the comparison holds for all their requests, those included that no policy was asked about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from scipy.stats import binomtest

from xrouter_lg.figures.bootstrap import Figure, figure
from xrouter_lg.judge.traffic.logged import LiveRequest, cost_weight_of, ratio_of_means

MIN_THREADS = 30
"""Threads of an arm with a known value, below which no difference is concluded."""
_MISMATCH = 0.001
"""Chance below which the arms' sizes don't fit the share."""

MEASURES = ("score", "usd", "utility", "fallbacks", "latency_s")


@dataclass(frozen=True)
class ArmReport:
    """One arm. Means are per request."""

    policies: dict[str, int]
    """Policy and version that decided, by number of requests."""
    requests: int
    threads: int
    known: dict[str, int]
    """Requests with a value, by measure."""
    means: dict[str, Figure]


@dataclass(frozen=True)
class CanaryReport:
    """Main and candidate, and candidate minus main."""

    salt: str
    share: float
    """Of the candidate, as logged with the newest request."""
    other_experiments: dict[str, int]
    main: ArmReport
    candidate: ArmReport
    differences: dict[str, Figure | None]
    """None when refused."""
    refused: dict[str, str]
    cost_weight: float
    c_ref_usd: float | None
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge_arms(
    requests: Sequence[LiveRequest],
    *,
    salt: str | None = None,
    cost_weight: float | None = None,
    c_ref_usd: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> CanaryReport:
    """Compare the arms of one experiment (a salt); the newest one unless named.

    Raises:
        ValueError: no request belongs to a canary (of that salt).
    """
    drawn = [r for r in requests if r.record.arm is not None]
    if not drawn:
        raise ValueError(
            "no request of these belongs to a canary; run with "
            "policy='canary:MAIN,CANDIDATE=0.05' first"
        )
    salts = Counter(_arm(r)["salt"] for r in drawn)
    chosen = salt or _arm(drawn[-1])["salt"]
    mine = [r for r in drawn if _arm(r)["salt"] == chosen]
    if not mine:
        raise ValueError(f"no request has the salt {chosen!r}; there are {', '.join(salts)}")
    weight = cost_weight_of(mine) if cost_weight is None else cost_weight
    values = _values(weight, c_ref_usd)
    arms = {name: [r for r in mine if _arm(r)["arm"] == name] for name in ("main", "candidate")}
    samples = {
        name: _samples(own, values, draws=draws, seed=seed + at)
        for at, (name, own) in enumerate(arms.items())
    }
    differences: dict[str, Figure | None] = {}
    refused: dict[str, str] = {}
    for measure in MEASURES:
        few = {
            name: samples[name][measure][1]
            for name in arms
            if samples[name][measure][1] < MIN_THREADS
        }
        if few:
            said = ", ".join(f"{name} has {count}" for name, count in few.items())
            refused[measure] = f"{said} threads with a value; {MIN_THREADS} are needed"
            differences[measure] = None
            continue
        gap = samples["candidate"][measure][0] - samples["main"][measure][0]
        differences[measure] = figure(gap)
    share = _share(mine[-1])
    return CanaryReport(
        salt=chosen,
        share=share,
        other_experiments={name: n for name, n in salts.items() if name != chosen},
        main=_report(arms["main"], samples["main"]),
        candidate=_report(arms["candidate"], samples["candidate"]),
        differences=differences,
        refused=refused,
        cost_weight=weight,
        c_ref_usd=c_ref_usd,
        notes=_notes(mine),
    )


Value = Callable[[LiveRequest], float | None]


def _values(weight: float, c_ref_usd: float | None) -> dict[str, Value]:
    def utility(request: LiveRequest) -> float | None:
        if request.score is None or request.usd is None or c_ref_usd is None:
            return None
        return request.score - weight * request.usd / c_ref_usd

    return {
        "score": lambda request: request.score,
        "usd": lambda request: request.usd,
        "utility": utility,
        "fallbacks": lambda request: float(bool(request.record.fallbacks)),
        "latency_s": lambda request: request.record.latency_s,
    }


_Samples = dict[str, tuple[Any, int, int]]
"""By measure: [1 + draws] means, threads and requests with a value."""


def _samples(
    requests: Sequence[LiveRequest], values: dict[str, Value], *, draws: int, seed: int
) -> _Samples:
    found: _Samples = {}
    for name, value in values.items():
        known = [(v, r.thread) for r in requests if (v := value(r)) is not None]
        threads = [thread for _, thread in known]
        samples = np.full(1 + draws, np.nan)
        if known:
            numbers = np.array([v for v, _ in known])
            samples = ratio_of_means(
                numbers, np.ones(len(numbers)), threads, draws=draws, seed=seed
            )
        found[name] = samples, len(set(threads)), len(known)
    return found


def _report(requests: Sequence[LiveRequest], samples: _Samples) -> ArmReport:
    policies = Counter(f"{r.record.policy} {r.record.policy_version}" for r in requests)
    return ArmReport(
        policies=dict(policies.most_common()),
        requests=len(requests),
        threads=len({r.thread for r in requests}),
        known={name: known for name, (_, _, known) in samples.items()},
        means={
            name: figure(values) if threads > 1 else Figure(_or_none(values[0]), None, None)
            for name, (values, threads, _) in samples.items()
        },
    )


def _notes(mine: Sequence[LiveRequest]) -> list[str]:
    """What makes the comparison doubtful."""
    notes = []
    sides: dict[str, set[str]] = {}
    for request in mine:
        sides.setdefault(request.thread, set()).add(_arm(request)["arm"])
    if moved := sum(len(arms) > 1 for arms in sides.values()):
        notes.append(
            f"{moved} threads changed sides, as they do when the share is changed: compare the "
            "time since then (--since)"
        )
    shares = {round(_share(request), 9) for request in mine}
    if len(shares) > 1:
        shown = ", ".join(f"{share:g}" for share in sorted(shares))
        notes.append(f"the share was changed meanwhile ({shown}): compare the time since (--since)")
    else:
        share = shares.pop()
        hit = sum("candidate" in arms for arms in sides.values())
        if 0 < share < 1 and binomtest(hit, len(sides), share).pvalue < _MISMATCH:
            notes.append(
                f"{hit} of {len(sides)} threads are the candidate's, at a share of {share:g}: "
                "requests of one arm are missing from the store (failed or not recorded), so the "
                "arms can't be compared"
            )
    return notes


def _share(request: LiveRequest) -> float:
    arm = _arm(request)
    return float(arm["propensity"] if arm["arm"] == "candidate" else 1.0 - arm["propensity"])


def _arm(request: LiveRequest) -> dict[str, Any]:
    assert request.record.arm is not None
    return request.record.arm


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
