"""What the closing table compares, and with which intervals."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from integrations.demo import report
from integrations.demo.app import usd_of
from integrations.demo.arms import Arm, Truth, interval
from integrations.demo.closing import AFTER, ARMS, BEFORE, RULES, Closing, routes
from integrations.demo.questions import Question, load
from integrations.demo.replay import RecordedModels
from integrations.demo.report import Unit
from integrations.demo.workers import CARDS

N = 200
UNIT = Unit(0.5, 4e-5)


def truth() -> Truth:
    """Cheap is right on the first half, dear everywhere; a middle one never."""
    half = (np.arange(N) < N // 2).astype(float)
    score = {"cheap": half, "dear": np.ones(N)}
    return Truth(score, {"cheap": np.full(N, 1e-5), "dear": np.full(N, 4e-5)})


def router(order: np.ndarray) -> Arm:
    """Takes cheap where ``order`` is below a half."""
    return truth().arm("router", ["cheap" if at < N // 2 else "dear" for at in order])


def fixed() -> list[Arm]:
    return [truth().arm(f"always {card}", [card] * N) for card in ("cheap", "dear")]


def test_a_shuffle_keeps_the_shares_and_loses_the_knowledge() -> None:
    good = router(np.arange(N))
    dealt = truth().shuffled(good)
    assert dealt.cost.mean() == pytest.approx(good.cost.mean())
    assert good.score.mean() == 1.0 and dealt.score.mean() == pytest.approx(0.75)


def test_a_router_that_knows_nothing_gains_nothing_over_its_shuffle() -> None:
    blind = router(np.random.default_rng(0).permutation(N))
    found = report.gains(blind, [truth().shuffled(blind)], UNIT)
    figure = found["its shuffle"]["utility"]
    assert figure.low is not None and figure.high is not None
    assert figure.low < 0.0 < figure.high and not figure.above()


def test_a_call_that_was_cut_off_counts_at_its_worst_case() -> None:
    asked = Question("q1", "?", held_out=True)
    known = {"cost_usd": "0.2", "held_usd": None}
    cut = {"cost_usd": None, "held_usd": "0.3"}
    record = {"cost_usd": None, "known_cost_usd": "0.2", "charges": [known, cut]}
    assert usd_of(asked, record) == pytest.approx(0.5)
    record["charges"] = [known, {"cost_usd": None, "held_usd": None}]
    with pytest.raises(RuntimeError, match="q1 is unknown"):
        usd_of(asked, record)
    assert usd_of(asked, {**record, "cost_usd": "0.7"}) == pytest.approx(0.7)


def test_gains_are_paired() -> None:
    found = report.gains(router(np.arange(N)), fixed(), UNIT)
    utility = found["always dear"]["utility"]
    # Half the requests save 3e-5: 0.5 * 1.5e-5 / 4e-5.
    assert utility.value == pytest.approx(0.5 * 1.5e-5 / 4e-5) and utility.above()
    assert found["always dear"]["score"].value == 0.0
    assert found["always dear"]["usd_saved_per_1000"].value == pytest.approx(0.015)


def test_an_interval_holds_the_mean() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    found = interval(values)
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(4 * 1.0 / 20, rel=0.2)


def test_both_worlds_are_shown_with_their_own_truth_and_written_down(tmp_path: Path) -> None:
    history = load(per_family=4)
    ids = [question.prompt_id for question in history.held_out]
    taken = {name: dict.fromkeys(ids, "large") for name in ("night 1", "night 2")}
    taken |= {RULES: dict.fromkeys(ids, "small"), "night 3": dict.fromkeys(ids, "small")}
    kept = {routes(world, name): taken[name] for world, names in ARMS.items() for name in names}
    swap = {CARDS["large"]: CARDS["tiny"]}
    closing = Closing(history, swap, 0.5, kept.get)
    before, after = ({arm.name: arm for arm in closing.arms[world]} for world in (BEFORE, AFTER))
    assert (before["always small"].score == after["always small"].score).all()
    assert (after["always large"].score == before["always tiny"].score).all()
    assert after["always large"].cost.mean() > 2 * before["always tiny"].cost.mean()
    assert before["after night 2"].shares == {"large": 1.0}
    paid = RecordedModels(history)
    expected = [paid.usd(CARDS["large"], question.prompt) for question in history.held_out]
    assert before["after night 2"].cost == pytest.approx(expected)
    console = Console(file=io.StringIO(), width=120)
    closing.show(console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "before the swap  right" in said and "after night 3 against" in said
    assert "by night 3 is not shown to be worth more" in said and not closing.won
    closing.write(tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["held_out"] == len(ids) and figures["won"] is False
    assert figures[AFTER]["gains"]["after night 3"]["always small"]["utility"]["value"] == 0.0
