"""What every card alone would have cost and been worth, in worlds where that is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.judge.test_live_traffic import run, texts
from tests.support import apps
from tests.tracing.routed import a_record
from xrouter_lg import ModelPool
from xrouter_lg.cli import app
from xrouter_lg.judge.traffic.fixed_cards import FixedCard
from xrouter_lg.judge.traffic.logged import LiveRequest
from xrouter_lg.judge.traffic.savings import Savings, find_savings

CARDS = ("large", "small")
USD = np.array([[0.010, 0.001], [0.002, 0.0002]])
"""[kind, card] of long and short requests."""
SCORE = np.array([[0.9, 0.3], [0.9, 0.85]])


class _World:
    """Requests whose every cost and score only the test knows."""

    def __init__(self, count: int, chances: Callable[[int], tuple[float, float]]) -> None:
        rng = np.random.default_rng(3)
        self.kind = rng.integers(0, 2, count)
        self.usd = USD[self.kind] * rng.lognormal(0, 0.3, (count, 1))
        self.score = (rng.random((count, 2)) < SCORE[self.kind]).astype(float)
        self.requests: list[LiveRequest] = []
        for n, kind in enumerate(self.kind):
            chance = chances(int(kind))
            card = int(rng.random() >= chance[0])
            self.requests.append(self._made(n, card, chance))

    def _made(self, n: int, card: int, chance: tuple[float, float]) -> LiveRequest:
        usd, name = f"{self.usd[n, card]:.9f}", CARDS[card]
        tokens = {"input_tokens": 1000 if self.kind[n] == 0 else 100, "output_tokens": 50}
        charge = {"kind": "worker", "card": name, "cost_usd": usd, "usage": tokens, "error": None}
        drawn = {name: p for name, p in zip(CARDS, chance, strict=True) if p > 0}
        record = a_record(
            route=name,
            candidates=list(CARDS),
            removed={},
            propensity=chance[card],
            cost_weight=0.5,
            cost_usd=usd,
            worker_cost_usd=usd,
            router_cost_usd="0",
            charges=[charge],
            decisions=[{"calls": [{"card": name}], "explore": drawn}],
            arm=None,
        )
        return LiveRequest(f"t{n // 2}", record, f"text {n}", str(n), float(self.score[n, card]))


def by_kind(kind: int) -> tuple[float, float]:
    """Long ones mostly to large, short ones mostly to small."""
    return (0.8, 0.2) if kind == 0 else (0.2, 0.8)


def card(found: Savings, name: str) -> FixedCard:
    return next(one for one in found.cards if one.card == name)


def test_a_card_for_everything_costs_what_it_would_have_cost() -> None:
    world = _World(1500, by_kind)
    found = find_savings(world.requests)
    spent = sum(request.usd or 0.0 for request in world.requests)
    assert found.spent_usd == pytest.approx(spent)
    for m, name in enumerate(CARDS):
        one = card(found, name)
        truth = world.usd[:, m].sum()
        assert one.usd_by == "doubly robust"
        assert one.usd.low is not None and one.usd.high is not None
        assert one.usd.low < truth < one.usd.high
        assert one.usd.high - one.usd.low < 0.3 * truth
        assert one.saved_usd.value == pytest.approx((one.usd.value or 0) - spent)
        assert one.saved_share.value == pytest.approx(1 - spent / (one.usd.value or 1))


def test_quality_is_the_true_difference_within_its_interval() -> None:
    world = _World(3000, by_kind)
    found = find_savings(world.requests, thumb_error=0.0)
    served = np.mean([request.score for request in world.requests])
    for m, name in enumerate(CARDS):
        one, truth = card(found, name), served - world.score[:, m].mean()
        assert one.score is not None and one.score.low is not None and one.score.high is not None
        assert one.score.low < truth < one.score.high
        assert one.score_of == 3000


def test_wrong_thumbs_do_not_shrink_a_difference() -> None:
    world = _World(4000, by_kind)
    rng = np.random.default_rng(1)
    lying = [
        replace(r, score=1.0 - (r.score or 0.0)) if rng.random() < 0.1 else r
        for r in world.requests
    ]
    told, plain = (find_savings(lying, thumb_error=e) for e in (0.1, 0.0))
    truth = np.mean([r.score for r in world.requests]) - world.score[:, 1].mean()
    right, shrunk = (card(found, "small").score for found in (told, plain))
    assert right is not None and shrunk is not None
    assert right.low < truth < right.high  # type: ignore[operator]
    assert abs((shrunk.value or 0) - 0.8 * truth) < 0.05


@pytest.mark.parametrize(("cost_weight", "best"), [(0.1, "large"), (0.5, "small")])
def test_the_best_card_is_the_one_that_is_worth_most_at_the_cost_weight(
    cost_weight: float, best: str
) -> None:
    found = find_savings(_World(1500, by_kind).requests, cost_weight=cost_weight)
    assert found.against == best and "best fixed card" in found.against_because
    assert found.best is not None and found.best.card == best


def test_without_draws_costs_are_told_by_kind_and_length_and_quality_is_unknown() -> None:
    """Rules that send every long request to large: its mean bill is not what it costs."""
    world = _World(1200, lambda kind: (1.0, 0.0) if kind == 0 else (0.0, 1.0))
    mixed = _World(1200, by_kind)
    some = mixed.requests[:200]  # an earlier week, in which both were asked of everything
    some = [replace(r, record=replace(r.record, propensity=None)) for r in some]
    found = find_savings([*some, *world.requests])
    one = card(found, "small")
    truth = mixed.usd[:200, 1].sum() + world.usd[:, 1].sum()
    assert one.usd_by == "paid by kind"
    assert one.usd.value == pytest.approx(truth, rel=0.1)
    naive = 1400 * np.mean([r.usd for r in world.requests if r.record.route == "small"])
    assert abs(naive - truth) > 0.4 * truth
    assert card(found, "small").score is not None  # told by the short ones, and says so
    assert one.score_of < 800


def test_quality_is_refused_where_a_card_was_never_drawn() -> None:
    world = _World(400, lambda _: (1.0, 0.0))
    one = card(find_savings(world.requests), "small")
    assert one.score is None and one.utility is None
    assert "exploration=0.05" in (one.score_unknown or "")
    assert (one.usd_by, one.usd.value) == ("unknown", None)


def test_a_card_that_was_never_called_costs_its_price() -> None:
    world = _World(50, lambda _: (1.0, 0.0))
    pool = ModelPool([apps.scripted("small"), apps.scripted("large")])
    one = card(find_savings(world.requests, pool=pool), "small")
    tokens = sum(1000 if kind == 0 else 100 for kind in world.kind)
    assert one.usd_by == "price"
    assert one.usd.value == pytest.approx((tokens * 1 + 50 * 50 * 2) / 1e6)


def test_without_scores_nobody_knows_the_best_and_the_dearest_stands_in() -> None:
    found = find_savings([replace(r, score=None) for r in _World(300, by_kind).requests])
    assert found.against == "large" and found.against_because.startswith("the dearest")
    assert card(found, "large").score_unknown == "no answer has a score: ask users for feedback"


def test_a_request_without_an_answer_saves_nothing() -> None:
    requests = _World(100, by_kind).requests
    failed = [
        replace(r, record=replace(r.record, route=None, cost_usd="0", charges=[])) for r in requests
    ]
    found, more = find_savings(requests), find_savings([*requests, *failed])
    assert more.unanswered == 100
    assert card(more, "large").saved_usd.value == pytest.approx(
        card(found, "large").saved_usd.value, rel=0.05
    )


def test_an_answer_that_was_cut_is_an_answer_and_costs_what_it_cost() -> None:
    requests = _World(100, by_kind).requests
    cut = [
        replace(
            r, record=replace(r.record, charges=[{**r.record.charges[0], "error": "truncated"}])
        )
        for r in requests
    ]
    assert find_savings(cut).cards == find_savings(requests).cards


def test_unknown_costs_are_left_out_and_counted() -> None:
    requests = _World(100, by_kind).requests
    unknown = replace(requests[0], record=replace(requests[0].record, cost_usd=None))
    found = find_savings([unknown, *requests])
    assert (found.requests, found.compared, found.unpriced) == (101, 100, 1)


def test_intervals_are_over_threads() -> None:
    requests = _World(800, by_kind).requests
    one = [replace(r, thread=f"t{n // 80}") for n, r in enumerate(requests)]
    assert find_savings(one).threads == 10
    alone = find_savings([replace(r, thread="only") for r in requests])
    assert card(alone, "small").usd.low is None


# --- the command -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("savings") / "t.db"
    run(path, "fixed:small", texts(240), exploration=1.0)
    return path


def invoked(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["savings", *map(str, arguments)])


def test_the_command_tells_spend_against_every_card(store: Path) -> None:
    shown = invoked("--store", store)
    assert shown.exit_code == 0, shown.output
    for words in ("240 of 240 threads", "against", "large *", "by feedback 'good'"):
        assert words in shown.output
    data = json.loads(invoked("--store", store, "--json").output)
    large = next(one for one in data["cards"] if one["card"] == "large")
    hard = np.mean([text.startswith("hard") for text in texts(240)])
    truth = -0.75 * hard / 0.8  # a tenth of the thumbs is taken to be wrong
    assert large["score"]["low"] < truth < large["score"]["high"]


def test_nothing_to_compare_is_exit_code_1(store: Path) -> None:
    empty = invoked("--store", store, "--until", "2020-01-01", "--since", "2019-01-01")
    assert empty.exit_code == 1 and "no request" in empty.output
    assert invoked("--store", "nowhere.db").exit_code == 2
