"""A shadow policy judged by what it proposed on live traffic, before it decides anything.

Where the shadow chose as the served policy did, its outcome is the served one. Where it chose
otherwise, an outcome table (backfill) may know its outcome; what is known of those requests stands
for those of which nothing is. Besides, logged propensities give off-policy estimates, if the
served policy explored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from xrouter_lg.arrays import Floats
from xrouter_lg.figures.bootstrap import Figure, bootstrap_means, figure
from xrouter_lg.judge.traffic.logged import (
    LiveRequest,
    Outcomes,
    by_thread,
    cost_weight_of,
    thread_mean,
    usd_as_float,
)
from xrouter_lg.judge.traffic.offpolicy import Logged, OffPolicy, estimate

MIN_JUDGED = 30
"""Disagreements with both outcomes known, below which no difference is concluded."""
LATE = 0.05
"""Share of late proposals above which the sample leans to requests with slow answers."""


@dataclass(frozen=True)
class Difference:
    """Shadow minus served, per request; None when refused."""

    value: Figure | None
    judged: int
    """Disagreements of which both outcomes are known."""
    refused: str | None = None


@dataclass(frozen=True)
class ShadowReport:
    """What a shadow policy would have done. USD per request."""

    policy: str
    version: str
    requests: int
    """Requests that asked this version."""
    threads: int
    status: dict[str, int]
    other_versions: dict[str, int]
    agreement: Figure
    """Share of requests in which it chose as the served policy."""
    served_shares: dict[str, float]
    shadow_shares: dict[str, float]
    served_usd: Figure
    """Of answers and router, where both policies' are known."""
    shadow_usd: Figure
    """The same, with the shadow's own tokens."""
    usd_difference: Figure
    usd_by: dict[str, int]
    """Where the shadow's cost is from: ``same route``, ``outcome table``, ``estimate``,
    ``unknown``."""
    score: Difference
    utility: Difference
    cost_weight: float
    c_ref_usd: float | None
    off_policy_score: OffPolicy | None
    off_policy_utility: OffPolicy | None
    off_policy_left_out: dict[str, int]
    shadow_paid_usd: float
    """What its proposals have cost in all, as far as known."""
    shadow_unpriced: int
    """Proposals of unknown cost."""
    latency_s: tuple[float, float] | None
    """Median and 95th percentile of its proposals."""
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge_shadow(
    requests: Sequence[LiveRequest],
    *,
    version: str | None = None,
    outcomes: Outcomes | None = None,
    cost_weight: float | None = None,
    c_ref_usd: float | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> ShadowReport:
    """Judge one version of a shadow; the newest one unless ``version`` names another.

    Raises:
        ValueError: no request has a shadow (of that version).
    """
    shadowed = [r for r in requests if r.shadow is not None]
    if not shadowed:
        raise ValueError(
            "no request of these has a shadow; run with policy='shadow:MAIN,SHADOW' first"
        )
    versions = Counter(_shadow(r)["policy_version"] for r in shadowed)
    chosen = version or _shadow(shadowed[-1])["policy_version"]
    mine = [r for r in shadowed if _shadow(r)["policy_version"] == chosen]
    if not mine:
        known = ", ".join(versions)
        raise ValueError(f"no request has a shadow of version {chosen!r}; there are {known}")
    proposed = [r for r in mine if _shadow(r)["status"] == "proposed"]
    weight = cost_weight_of(mine) if cost_weight is None else cost_weight
    compared = _Compared(
        [r for r in proposed if not r.first.get("explored")], outcomes or {}, draws, seed
    )
    rate = weight / c_ref_usd if c_ref_usd else None
    off_score, off_utility, left_out = _off_policy(proposed, rate)
    status = Counter(_shadow(r)["status"] for r in mine)
    paid = [_shadow(r).get("cost_usd") for r in mine]
    latency = [float(_shadow(r)["latency_s"]) for r in proposed]
    agrees = np.array([float(_agrees(r)) for r in compared.requests])
    threads = [r.thread for r in compared.requests]
    return ShadowReport(
        policy=_shadow(mine[-1])["policy"],
        version=chosen,
        requests=len(mine),
        threads=len({r.thread for r in mine}),
        status=dict(status.most_common()),
        other_versions={name: n for name, n in versions.items() if name != chosen},
        agreement=thread_mean(agrees, threads, draws=draws, seed=seed),
        served_shares=_shares(name for r in compared.requests for name in _served(r)),
        shadow_shares=_shares(name for r in compared.requests for name in _called(r)),
        **compared.costs(),
        score=compared.difference(None),
        utility=Difference(None, 0, "the unit of the cost weight is unknown: give --checkpoint")
        if rate is None
        else compared.difference(rate),
        cost_weight=weight,
        c_ref_usd=c_ref_usd,
        off_policy_score=off_score,
        off_policy_utility=off_utility,
        off_policy_left_out=left_out,
        shadow_paid_usd=sum(float(usd) for usd in paid if usd is not None),
        shadow_unpriced=sum(usd is None for usd in paid),
        latency_s=(float(np.quantile(latency, 0.5)), float(np.quantile(latency, 0.95)))
        if latency
        else None,
        notes=_notes(mine, status),
    )


class _Compared:
    """Requests without exploration, served and shadow side by side."""

    def __init__(
        self, requests: Sequence[LiveRequest], outcomes: Outcomes, draws: int, seed: int
    ) -> None:
        self.requests, self._outcomes = requests, outcomes
        self._draws, self._seed = draws, seed
        self._factor = _calibration(requests)

    def costs(self) -> dict[str, Any]:
        """The cost fields of the report."""
        sources: Counter[str] = Counter()
        served, shadow, threads = [], [], []
        for request in self.requests:
            own = request.worker_usd
            theirs, source = self._shadow_usd(request)
            sources[source] += 1
            routers = (
                usd_as_float(request.record.router_cost_usd),
                usd_as_float(_shadow(request)["cost_usd"]),
            )
            if own is None or theirs is None or routers[0] is None or routers[1] is None:
                continue
            served.append(own + routers[0])
            shadow.append(theirs + routers[1])
            threads.append(request.thread)
        a, b = np.array(served), np.array(shadow)
        options = {"draws": self._draws, "seed": self._seed}
        return {
            "served_usd": thread_mean(a, threads, **options),
            "shadow_usd": thread_mean(b, threads, **options),
            "usd_difference": thread_mean(b - a, threads, **options),
            "usd_by": dict(sources),
        }

    def difference(self, rate: float | None) -> Difference:
        """Score (``rate`` None), or utility at ``rate`` score units per USD.

        Agreement differs by the routers' costs alone. Of the disagreements some are judged; the
        estimate is share of disagreements × mean difference of those that are.
        """
        rows = []
        for request in self.requests:
            disagrees = float(not _agrees(request))
            found = self._known_difference(request, rate) if disagrees else None
            routers = 0.0
            if rate is not None:
                own = usd_as_float(request.record.router_cost_usd)
                other = usd_as_float(_shadow(request)["cost_usd"])
                routers = rate * ((own or 0.0) - (other or 0.0))
            judged = float(found is not None)
            rows.append((1.0, disagrees, found or 0.0, judged, routers))
        values = np.array(rows).T if rows else np.zeros((5, 0))
        judged = int(values[3].sum())
        if not len(rows):
            return Difference(None, 0, "no request was decided without exploration")
        if judged < MIN_JUDGED and values[1].any():
            return Difference(
                None,
                judged,
                f"{judged} of {int(values[1].sum())} disagreements are judged, at least "
                f"{MIN_JUDGED} are needed: `xrouter backfill` asks the shadow's cards, then give "
                "--outcomes (and --feedback for what was served)",
            )
        sums, count = by_thread(values, [r.thread for r in self.requests])
        means = bootstrap_means(sums, draws=self._draws, seed=self._seed)
        with np.errstate(divide="ignore", invalid="ignore"):
            per = np.where(means[:, 3] > 0, means[:, 2] / means[:, 3], 0.0)
        samples = (means[:, 1] * per + means[:, 4]) / means[:, 0]
        if count < 2:
            return Difference(Figure(float(samples[0]), None, None), judged)
        return Difference(figure(samples), judged)

    def _known_difference(self, request: LiveRequest, rate: float | None) -> float | None:
        card = _shadow(request)["route"]
        if not request.single or len(_called(request)) != 1 or request.prompt_id is None:
            return None
        score, usd = self._outcomes.get((request.prompt_id, card), (None, None))
        if score is None or request.score is None:
            return None
        if rate is None:
            return score - request.score
        if usd is None or request.worker_usd is None:
            return None
        return (score - request.score) - rate * (usd - request.worker_usd)

    def _shadow_usd(self, request: LiveRequest) -> tuple[float | None, str]:
        if _agrees(request):
            return request.worker_usd, "same route"
        cards, total = _called(request), 0.0
        source = "outcome table"
        for card in cards:
            usd = self._outcomes.get((request.prompt_id or "", card), (None, None))[1]
            if usd is None:
                raw = _shadow(request)["estimates_usd"].get(card)
                if raw is None:
                    return None, "unknown"
                usd, source = raw * self._factor.get(card, self._factor[""]), "estimate"
            total += usd
        return total, source


def _calibration(requests: Sequence[LiveRequest]) -> dict[str, float]:
    """What a card's calls cost over what was estimated of them, by card; ``""`` of all."""
    actual: Counter[str] = Counter()
    expected: Counter[str] = Counter()
    for request in requests:
        usd = _shadow(request)["estimates_usd"].get(request.record.route)
        if request.single and usd and request.worker_usd is not None:
            for name in (str(request.record.route), ""):
                actual[name] += request.worker_usd  # type: ignore[assignment]
                expected[name] += usd
    found = {name: actual[name] / expected[name] for name in expected if expected[name] > 0}
    return {"": 1.0, **found}


@dataclass(frozen=True, slots=True)
class _Row:
    """A request as off-policy estimates see it."""

    card: str
    wanted: str
    """What the shadow would have called."""
    propensity: float
    support: Mapping[str, float] | None
    """Probabilities of all cards that could be called; None where they are not on record."""
    score: float
    utility: float | None


def _off_policy(
    requests: Sequence[LiveRequest], rate: float | None
) -> tuple[OffPolicy | None, OffPolicy | None, dict[str, int]]:
    """Off-policy estimates of score and utility, and what was left out of them."""
    left: Counter[str] = Counter()
    rows: list[_Row] = []
    for request in requests:
        if not request.single or len(_called(request)) != 1:
            left["several calls or turns"] += 1
        elif request.score is None:
            left["no score"] += 1
        elif request.record.propensity is None:
            left["no propensity"] += 1
        else:
            total = request.usd
            net = None if rate is None or total is None else request.score - rate * total
            card, propensity = str(request.card), request.record.propensity
            wanted = _called(request)[0]
            rows.append(_Row(card, wanted, propensity, request.support, request.score, net))
    if not rows:
        return None, None, dict(left)
    cards = sorted({name for row in rows for name in (row.card, row.wanted)})
    score = _estimated(rows, cards, [row.score for row in rows])
    known = [(row, row.utility) for row in rows if row.utility is not None]
    left["no cost"] = len(rows) - len(known)
    own, reward = [row for row, _ in known], [value for _, value in known]
    utility = _estimated(own, cards, reward) if known else None
    return score, utility if rate is not None else None, {k: n for k, n in left.items() if n}


def _estimated(rows: Sequence[_Row], cards: Sequence[str], reward: Sequence[float]) -> OffPolicy:
    target: Floats = np.zeros((len(rows), len(cards)))
    target[np.arange(len(rows)), [cards.index(row.wanted) for row in rows]] = 1.0
    support = None
    if all(row.support is not None for row in rows):
        support = np.array([[(row.support or {}).get(name, 0.0) for name in cards] for row in rows])
    log = Logged(
        np.array([cards.index(row.card) for row in rows]),
        np.minimum(np.array([row.propensity for row in rows]), 1.0),
        np.array(reward),
        support,
    )
    return estimate(log, target)


def _shadow(request: LiveRequest) -> Any:
    assert request.shadow is not None
    return request.shadow


def _called(request: LiveRequest) -> tuple[str, ...]:
    return tuple(str(call["card"]) for call in _shadow(request).get("calls") or ())


def _served(request: LiveRequest) -> tuple[str, ...]:
    return tuple(str(call["card"]) for call in request.first.get("calls") or ())


def _agrees(request: LiveRequest) -> bool:
    """The same first step: calls, a selection, or an answer of one's own."""
    shadow, first = _shadow(request), request.first
    return (
        sorted(_called(request)) == sorted(_served(request))
        and shadow.get("select") == first.get("select")
        and bool(shadow.get("direct")) == bool(first.get("direct"))
    )


def _shares(names: Any) -> dict[str, float]:
    counts = Counter(names)
    return {name: count / counts.total() for name, count in counts.most_common()}


def _notes(mine: Sequence[LiveRequest], status: Counter[str]) -> list[str]:
    notes = []
    if status["late"] > LATE * len(mine):
        notes.append(
            f"{status['late'] / len(mine):.0%} of the proposals were late: what is judged leans to "
            "requests with slow answers. Give the shadow a wait_s, or serve it faster."
        )
    if status["failed"] + status["timeout"] > LATE * len(mine):
        shown = Counter(
            str(_shadow(r)["detail"]) for r in mine if _shadow(r)["status"] in ("failed", "timeout")
        )
        notes.append(f"{shown.total()} proposals failed, most often: {shown.most_common(1)[0][0]}")
    return notes
