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


AHEAD = EstimatedGain(figure(0.1, 0.1), figure(0.101, 0.1))
SHOWN = EstimatedGain(figure(0.1, 0.01), figure(0.1, 0.01))
BEHIND = EstimatedGain(figure(0.1, 0.1), figure(0.099, 0.1))
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
    told: int | None = 1
    proved: Floats = field(default_factory=lambda: np.array([0.03, -0.01, -0.01, -0.004]))
    taken: Ints = field(default_factory=lambda: np.array([0, 2, 2, 2]))

    def told_most(self) -> int | None:
        return self.told

    def of_choice(self, one: Ints, other: Ints | None = None) -> EstimatedGain:
        if one is not self.taken:
            assert other is None and set(one.tolist()) == {1 if self.told is None else self.told}
            return self.fixed_over_log
        return self.over_log if other is None else self.over_fixed


def concluded(
    learned: FromLog,
    monkeypatch: pytest.MonkeyPatch,
    gains: KnownGains,
    *,
    scored: int = 100,
    drawn: int = 10,
    contradiction: str | None = None,
) -> one_sided.Conclusion:
    log = SimpleNamespace(
        row=np.arange(4),
        scored=scored,
        drawn=drawn,
        unexplored="never explored",
        contradiction=lambda cards: contradiction,
    )
    monkeypatch.setattr(one_sided, "LoggedCalls", SimpleNamespace(of=lambda *known: log))
    monkeypatch.setattr(one_sided, "_Gains", SimpleNamespace(of=lambda *known: gains))
    return conclude_from_log(learned, cost_weight=WEIGHT, c_ref_usd=C_REF)


@pytest.mark.parametrize(
    ("gains", "more", "use", "says"),
    [
        # Too little, whatever it says.
        ((SHOWN, SHOWN, AHEAD), {"scored": 99}, "as it is", "99 answers have a score; at least"),
        ((SHOWN, SHOWN, AHEAD), {"drawn": 9}, "as it is", "never explored"),
        ((SHOWN, SHOWN, AHEAD), {"contradiction": "can't be"}, "as it is", "can't be"),
        # Before a contradiction: without draws there is none to find.
        ((SHOWN, SHOWN, AHEAD), {"drawn": 9, "contradiction": "can't be"}, "as it is", "explored"),
        # Routing: proved, likely, and ahead of the card where that is ahead of the log.
        ((SHOWN, AHEAD, AHEAD), {}, "checkpoint", "+0.0015 per request; gain over the log"),
        ((SHOWN, AHEAD, AHEAD), {}, "checkpoint", "(shown)"),
        ((AHEAD, AHEAD, AHEAD), {}, "checkpoint", "(expected, not yet shown as a whole)"),
        ((BEHIND, AHEAD, AHEAD), {}, "checkpoint", "not yet shown"),
        ((SHOWN, BEHIND, AHEAD), {}, "fixed", "is not ahead of it by its error"),
        ((SHOWN, BEHIND, BEHIND), {}, "checkpoint", "over coder for every request"),
        ((RULED_OUT, AHEAD, AHEAD), {}, "fixed", "coder for every request is ahead of the log"),
        ((UNEXPECTED, AHEAD, AHEAD), {}, "fixed", "Serve policy='fixed:coder'"),
        ((RULED_OUT, AHEAD, BEHIND), {}, "as it is", "nothing is expected to beat the log"),
        ((UNEXPECTED, BEHIND, BEHIND), {}, "as it is", "nothing is expected to beat the log"),
    ],
)  # fmt: skip
def test_the_simplest_conclusion_that_nothing_is_ahead_of(
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
    gains = KnownGains(SHOWN, SHOWN, AHEAD, proved=np.full(4, proved))
    assert concluded(learned, monkeypatch, gains).use == use


def test_where_draws_tell_of_no_card_the_value_models_is_named_and_never_served_alone(
    learned: FromLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(learned.model), "fixed", lambda *known: 1)
    found = concluded(learned, monkeypatch, KnownGains(RULED_OUT, AHEAD, AHEAD, told=None))
    assert (found.use, found.fixed) == ("as it is", "coder")
    found = concluded(learned, monkeypatch, KnownGains(SHOWN, BEHIND, AHEAD, told=None))
    assert found.use == "checkpoint"


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
    fixed = dict.fromkeys(range(n), learned.table.cards.index(found.fixed))
    same(found.over_fixed, reference.gain(reference.taken, fixed))
    same(found.fixed_over_log, reference.gain(fixed, None))
    proved = [
        reference.counted[row][reference.taken[row]] - reference.counted[row][card]
        for row, card in reference.called.items()
    ]
    assert found.proved == pytest.approx(np.mean(proved), abs=1e-9)
    assert (found.scored, found.requests) == (
        sum((row, card) in reference.scored for row, card in reference.called.items()),
        n - 2,
    )
    # The best card is that with the highest estimate over the log less its error.
    by_card = [reference.gain(dict.fromkeys(range(n), card), None)[1] for card in range(3)]
    ahead = [
        (one.value or 0.0) - ((one.high or 0.0) - (one.value or 0.0)) / 1.96 for one in by_card
    ]
    assert fixed[0] == int(np.argmax(ahead))


@pytest.mark.parametrize(("answers", "fixed"), [(29, "large"), (30, "small")])
def test_a_card_of_fewer_than_thirty_answers_is_not_served_alone(answers: int, fixed: str) -> None:
    """Small is always right, and large and coder hardly ever."""
    world = World.of(600)
    world.score_N_M[:] = [1.0, 0.1, 0.4]
    world.score_N_M[:, 2] = np.arange(600) % 5 < 2
    table = world.log(np.full((600, 3), [0.2, 0.2, 0.6]))
    small = np.flatnonzero(np.isfinite(table.score[:, 0]))
    table.score[small[answers:], 0] = np.nan
    found = conclude_from_log(learned_from(table, HOW), cost_weight=0.0, c_ref_usd=C_REF)
    assert found.fixed == fixed
