"""Every rule by which a one-sided log is concluded from, and the estimates it goes by."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.logs import CARDS, USD, World, always
from xrouter_lg.arrays import Floats, Ints
from xrouter_lg.figures.bootstrap import Figure
from xrouter_lg.fitting.from_log import FromLog, learned_from
from xrouter_lg.fitting.read_lesson import LessonSettings
from xrouter_lg.judge import one_sided
from xrouter_lg.judge.one_sided import EstimatedGain, conclude_from_log

WEIGHT, C_REF = 0.5, 0.008
HOW = LessonSettings()


def figure(value: float, error: float) -> Figure:
    return Figure(value, value - 1.96 * error, value + 1.96 * error)


LIKELY = EstimatedGain(figure(0.1, 0.1), figure(0.1, 0.1))
EXPECTED = EstimatedGain(figure(0.031, 0.1), None)
SHOWN = EstimatedGain(figure(0.1, 0.01), figure(0.1, 0.01))
NOT_EXPECTED = EstimatedGain(figure(0.029, 0.1), None)
RULED_OUT = EstimatedGain(figure(0.1, 0.1), figure(-0.1, 0.01))
UNEXPECTED = EstimatedGain(figure(-0.1, 0.1), figure(0.3, 0.1))


@pytest.fixture(scope="module")
def learned() -> FromLog:
    return learned_from(World.of(300).log(always("large", 300, 0.3)), HOW)


@dataclass
class KnownGains:
    """Estimates by hand: of routing over the log, over the best card, and of that over the log."""

    over_log: EstimatedGain
    over_fixed: EstimatedGain
    fixed_over_log: EstimatedGain
    best: Ints = field(default_factory=lambda: np.array([1, 1, 1, 1]))
    proved: Floats = field(default_factory=lambda: np.array([0.03, -0.01, -0.01, -0.004]))
    taken: Ints = field(default_factory=lambda: np.array([0, 2, 2, 2]))

    def of_choice(self, one: Ints, other: Ints | None = None) -> EstimatedGain:
        if one is self.best:
            assert other is None
            return self.fixed_over_log
        assert one is self.taken and (other is None or other is self.best)
        return self.over_log if other is None else self.over_fixed


def concluded(
    learned: FromLog,
    monkeypatch: pytest.MonkeyPatch,
    gains: KnownGains,
    *,
    scored: int = 100,
    drawn: int = 10,
    answers: int = 30,
    contradiction: str | None = None,
) -> one_sided.Conclusion:
    log = SimpleNamespace(
        row=np.arange(4),
        scored=scored,
        drawn=drawn,
        score_M=np.array([[np.nan, 1.0, np.nan]] * answers + [[0.0, np.nan, np.nan]] * 40),
        unexplored="never explored",
        contradiction=lambda cards: contradiction,
    )
    monkeypatch.setattr(type(learned.model), "fixed", lambda *known: 1)
    monkeypatch.setattr(one_sided, "LoggedCalls", SimpleNamespace(of=lambda *known: log))
    monkeypatch.setattr(one_sided, "_Gains", SimpleNamespace(of=lambda *known: gains))
    return conclude_from_log(learned, cost_weight=WEIGHT, c_ref_usd=C_REF)


@pytest.mark.parametrize(
    ("gains", "more", "use", "says"),
    [
        # Too little, whatever it says.
        ((SHOWN, SHOWN, SHOWN), {"scored": 99}, "as it is", "99 answers have a score; at least"),
        ((SHOWN, SHOWN, SHOWN), {"drawn": 9}, "as it is", "never explored"),
        ((SHOWN, SHOWN, SHOWN), {"contradiction": "can't be"}, "as it is", "can't be"),
        # Before a contradiction: without draws there is none to find.
        ((SHOWN, SHOWN, SHOWN), {"drawn": 9, "contradiction": "can't be"}, "as it is", "explored"),
        # Routing: proved, likely, and expected above the card where that is shown above the log.
        ((SHOWN, EXPECTED, SHOWN), {}, "checkpoint", "+0.0015 per request; gain over the log"),
        ((SHOWN, EXPECTED, SHOWN), {}, "checkpoint", "(shown)"),
        ((LIKELY, EXPECTED, SHOWN), {}, "checkpoint", "(expected, not yet shown as a whole)"),
        ((SHOWN, NOT_EXPECTED, SHOWN), {}, "fixed", "routing is not expected to beat coder"),
        ((SHOWN, NOT_EXPECTED, SHOWN), {"answers": 29}, "checkpoint", "for every request"),
        ((SHOWN, NOT_EXPECTED, LIKELY), {}, "checkpoint", "over coder for every request"),
        ((RULED_OUT, EXPECTED, SHOWN), {}, "fixed", "which is shown to beat the log"),
        ((UNEXPECTED, EXPECTED, SHOWN), {}, "fixed", "Serve policy='fixed:coder'"),
        ((RULED_OUT, EXPECTED, SHOWN), {"answers": 29}, "as it is", "nothing is expected"),
        ((RULED_OUT, EXPECTED, LIKELY), {}, "as it is", "nothing is expected to beat the log"),
        ((UNEXPECTED, NOT_EXPECTED, LIKELY), {}, "as it is", "nothing is expected to beat the log"),
    ],
)  # fmt: skip
def test_the_conclusion_that_the_estimates_allow(
    learned: FromLog,
    monkeypatch: pytest.MonkeyPatch,
    gains: tuple[EstimatedGain, EstimatedGain, EstimatedGain],
    more: dict[str, Any],
    use: str,
    says: str,
) -> None:
    found = concluded(learned, monkeypatch, KnownGains(*gains), **more)
    assert found.use == use
    assert says in found.reason
    assert found.card == ("coder" if use == "fixed" else None)
    assert found.promote is (use == "checkpoint")
    assert found.to_json()["use"] == ("coder" if use == "fixed" else use)
    if more.get("scored"):
        assert (found.proved, found.over_log, found.over_fixed) == (0.0, None, None)
        assert found.fixed_over_log is None and not found.worth_trying
    else:
        assert (found.over_log, found.over_fixed, found.fixed_over_log) == gains
        assert found.proved == pytest.approx(0.0015)
        assert found.worth_trying is (gains[0] not in (RULED_OUT, UNEXPECTED))


@pytest.mark.parametrize(
    ("proved", "use"), [(0.001, "checkpoint"), (0.0, "fixed"), (-0.1, "fixed")]
)
def test_routing_that_proves_nothing_is_not_promoted(
    learned: FromLog, monkeypatch: pytest.MonkeyPatch, proved: float, use: str
) -> None:
    gains = KnownGains(SHOWN, SHOWN, SHOWN, proved=np.full(4, proved))
    assert concluded(learned, monkeypatch, gains).use == use


def test_what_is_concluded_is_kept_with_what_it_is_of(learned: FromLog) -> None:
    found = conclude_from_log(learned, cost_weight=WEIGHT)
    assert (found.cost_weight, found.c_ref_usd) == (WEIGHT, learned.c_ref_usd)
    assert (found.requests, found.scored) == (300, 300)
    left = dataclasses.replace(
        learned.table, omitted=dataclasses.replace(learned.table.omitted, strangers={"old": 7})
    )
    again = conclude_from_log(dataclasses.replace(learned, table=left), cost_weight=WEIGHT)
    assert again.left_out == ("7 scored outcomes of old, which can't be chosen, are left out",)
    assert again.left_out[0] in again.to_json()["reasons"]


# The doubly robust estimate (Dudík, Langford and Li 2011, arXiv 1103.4601, equation 1): of a policy
# π on n logged (x, a, r, p), with an estimate ρ(x, a) of the reward that has not seen x,
#
#     V = 1/n Σ ρ(x, π(x)) + [π(x) = a] · (r − ρ(x, a)) / p.
#
# The log is the policy that takes a: V of it has p = 1.


@dataclass
class Reference:
    """Request by request, with what the log tells of each in plain Python."""

    learned: FromLog
    taken: dict[int, int] = field(default_factory=dict)
    """The card that routing takes on each logged request."""

    def __post_init__(self) -> None:
        table, model = self.learned.table, self.learned.model
        self.called = {
            row: int(np.flatnonzero(np.isfinite(chances))[0])
            for row, chances in enumerate(table.more["propensity"])
            if np.isfinite(chances).any()
        }
        self.error = self.learned.thumbs.value
        shares = model.shares(self.learned.features.plane_N_P)
        self.mean: dict[int, Floats] = {}
        self.utility: dict[int, Floats] = {}
        self.counted: dict[int, Floats] = {}
        self.best: dict[int, int] = {}
        self.spread: dict[tuple[int, int, int], float] = {}
        given = dict(self.taken)
        pairs = [(a, b) for a in range(len(CARDS)) for b in range(len(CARDS))]
        for chosen, fitted in self.learned.folds():
            rows = np.flatnonzero(chosen)
            own = tuple(share[rows] for share in shares)
            found = fitted.expect(own)
            every = np.ones(len(rows), dtype=np.int64)
            spread = {(a, b): fitted.error(own, a * every, b * every) for a, b in pairs}
            for at, row in enumerate(rows.tolist()):
                price = WEIGHT * found.usd_N_M[at] / C_REF
                self.best[row] = fitted.fixed(WEIGHT, C_REF)
                self.mean[row] = found.mean_N_M[at]
                self.utility[row] = found.mean_N_M[at] - price
                self.counted[row] = found.counted_N_M[at] - price
                self.taken[row] = given.get(row, int(self.counted[row].argmax()))
                self.spread.update({(row, *pair): float(of[at]) for pair, of in spread.items()})
        self.scored = {
            (row, card): self.right(row, card)
            for row, card in np.argwhere(np.isfinite(table.score)).tolist()
        }
        told = [row for row, card in self.called.items() if (row, card) in self.scored]
        usual = len(told) / len(self.called)
        calls = [sum(c == card for c in self.called.values()) for card in range(len(CARDS))]
        heard = [sum(self.called[row] == card for row in told) for card in range(len(CARDS))]
        self.heard = [(h / usual + 10) / (c + 10) for h, c in zip(heard, calls, strict=True)]

    def right(self, row: int, card: int) -> float:
        error = {"feedback": self.error, "exact": 0.0}[
            self.learned.table.more["scored_by"][row, card]
        ]
        return float((self.learned.table.score[row, card] - error) / (1 - 2 * error))

    def beyond(self, row: int, card: int, *, sure: bool = False) -> float:
        if (row, card) not in self.scored:
            return 0.0
        own = card == self.called[row] and not sure
        p = float(self.learned.table.more["propensity"][row, card]) if own else 1.0
        several = sum((row, other) in self.scored for other in range(len(CARDS))) > 1
        share = 1.0 if several else self.heard[self.called[row]]
        return (self.scored[row, card] - float(self.mean[row][card])) / p / share

    def gain(self, one: dict[int, int], other: dict[int, int] | None) -> tuple[Figure, Figure]:
        instead = self.called if other is None else other
        expected, beyond, both, errors = [], [], [], []
        for row in sorted(self.called):
            more = float(self.utility[row][one[row]] - self.utility[row][instead[row]])
            expected.append(more)
            errors.append(self.spread[row, one[row], instead[row]])
            if any((row, card) in self.scored for card in range(len(CARDS))):
                beyond.append(
                    self.beyond(row, one[row]) - self.beyond(row, instead[row], sure=other is None)
                )
                both.append(more + beyond[-1])
        value = sum(expected) / len(expected) + sum(beyond) / len(beyond)
        error = float(np.std(both, ddof=1) / np.sqrt(len(both)))
        return figure(float(np.mean(expected)), float(np.mean(errors))), figure(value, error)


def bought_beside(seed: int) -> FromLog:
    """Half of a log's answers have thumbs, a tenth of them wrong; large is heard of less; of every
    seventh request another card was bought."""
    world = World.of(400, seed)
    table = world.log(always("large", 400, 0.4), seed, scored=0.5, wrong=0.1)
    rng = np.random.default_rng(seed)
    table.score[rng.random(400) < 0.3, 2] = np.nan
    for row in range(0, 400, 7):
        card = 0 if np.isfinite(table.more["propensity"][row, 1]) else 1
        if np.isnan(table.more["propensity"][row, card]):
            table.score[row, card] = world.score_N_M[row, card]
            table.cost[row, card] = USD[card]
            table.more["scored_by"][row, card] = "exact"
    for known in (table.score, table.cost, table.more["propensity"], table.more["observed_at"]):
        known[[3, 90]] = np.nan  # nobody knows which card was called there
    return learned_from(table, HOW)


def same(found: EstimatedGain | None, reference: tuple[Figure, Figure]) -> None:
    assert found is not None
    for mine, other in zip((found.model, found.doubly_robust), reference, strict=True):
        assert mine is not None
        assert dataclasses.astuple(mine) == pytest.approx(dataclasses.astuple(other), abs=1e-9)


@pytest.mark.parametrize("given", [False, True], ids=["what is learned", "a checkpoint's cards"])
def test_every_estimate_is_that_of_the_formula_request_by_request(given: bool) -> None:
    learned = bought_beside(3)
    n = len(learned.table)
    taken = np.random.default_rng(0).integers(0, 3, n) if given else None
    found = conclude_from_log(learned, cost_weight=WEIGHT, c_ref_usd=C_REF, taken_N=taken)
    reference = Reference(learned, {} if taken is None else dict(enumerate(taken.tolist())))
    same(found.over_log, reference.gain(reference.taken, None))
    same(found.over_fixed, reference.gain(reference.taken, reference.best))
    same(found.fixed_over_log, reference.gain(reference.best, None))
    assert found.fixed == learned.table.cards[learned.model.fixed(WEIGHT, C_REF)]
    proved = [
        reference.counted[row][reference.taken[row]] - reference.counted[row][card]
        for row, card in reference.called.items()
    ]
    assert found.proved == pytest.approx(np.mean(proved), abs=1e-9)
    assert (found.scored, found.requests) == (
        sum((row, card) in reference.scored for row, card in reference.called.items()),
        n - 2,
    )


@pytest.mark.parametrize("answers", [29, 30])
def test_a_card_of_fewer_than_thirty_answers_is_not_served_alone(answers: int) -> None:
    """Small is always right, and large and coder hardly ever."""
    world = World.of(600)
    world.score_N_M[:] = [1.0, 0.1, 0.4]
    world.score_N_M[:, 2] = np.arange(600) % 5 < 2
    table = world.log(np.full((600, 3), [0.2, 0.2, 0.6]))
    small = np.flatnonzero(np.isfinite(table.score[:, 0]))
    table.score[small[answers:], 0] = np.nan
    found = conclude_from_log(learned_from(table, HOW), cost_weight=0.0, c_ref_usd=C_REF)
    assert found.fixed == "small"
    assert (found.use == "fixed") is (answers == 30)
