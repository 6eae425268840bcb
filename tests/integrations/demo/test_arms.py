"""What the demo compares, and with which intervals."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from integrations.demo import report
from integrations.demo.app import Served, usd_of
from integrations.demo.arms import Arm, arm_of, interval, shuffled
from integrations.demo.questions import Question

N = 200


def fixed() -> dict[str, Arm]:
    """Cheap is right on the first half, dear everywhere."""
    zeros = np.zeros(N)
    half = (np.arange(N) < N // 2).astype(float)
    return {
        "cheap": Arm("always cheap", half, np.full(N, 1e-5), zeros, {"cheap": 1.0}),
        "dear": Arm("always dear", np.ones(N), np.full(N, 4e-5), zeros, {"dear": 1.0}),
    }


def router(order: np.ndarray) -> Arm:
    """Takes cheap where ``order`` is below a half."""
    arms = fixed()
    cheap = order < N // 2
    score = np.where(cheap, arms["cheap"].score, arms["dear"].score)
    cost = np.where(cheap, arms["cheap"].cost, arms["dear"].cost) + 1e-6
    return Arm("router", score, cost, np.full(N, 1e-6), {"cheap": 0.5, "dear": 0.5})


def test_a_shuffle_keeps_the_shares_and_loses_the_knowledge() -> None:
    good, arms = router(np.arange(N)), fixed()
    dealt = shuffled(good, arms)
    assert dealt.cost.mean() == pytest.approx(good.cost.mean())
    assert good.score.mean() == 1.0 and dealt.score.mean() == pytest.approx(0.75)


def test_a_router_that_knows_nothing_gains_nothing_over_its_shuffle() -> None:
    blind = router(np.random.default_rng(0).permutation(N))
    found = report.gains(blind, [shuffled(blind, fixed())], cost_weight=0.3, c_ref=4e-5)
    figure = found["shuffle of router"]["utility"]
    assert figure.low is not None and figure.high is not None
    assert figure.low < 0.0 < figure.high and not figure.above()


def test_a_call_that_was_cut_off_counts_at_its_worst_case() -> None:
    asked = Question("q1", "facts", "?", "!", held_out=True)
    known = {"cost_usd": "0.2", "held_usd": None}
    cut = {"cost_usd": None, "held_usd": "0.3"}
    record = {"cost_usd": None, "known_cost_usd": "0.2", "charges": [known, cut]}
    assert usd_of(asked, record) == pytest.approx(0.5)
    record["charges"] = [known, {"cost_usd": None, "held_usd": None}]
    with pytest.raises(RuntimeError, match="q1 is unknown"):
        usd_of(asked, record)
    assert usd_of(asked, {**record, "cost_usd": "0.7"}) == pytest.approx(0.7)


def test_gains_are_paired_and_count_the_routers_own_cost() -> None:
    good, arms = router(np.arange(N)), fixed()
    found = report.gains(good, list(arms.values()), cost_weight=0.5, c_ref=4e-5)
    utility = found["always dear"]["utility"]
    # Half the requests save 3e-5, every one pays 1e-6: 0.5 * (1.5e-5 - 1e-6) / 4e-5.
    assert utility.value == pytest.approx(0.5 * 1.4e-5 / 4e-5) and utility.above()
    assert found["always dear"]["score"].value == 0.0
    assert found["always dear"]["usd_saved_per_1000"].value == pytest.approx(0.014)


def test_the_routers_tokens_are_priced_in() -> None:
    question = Question("id", "task", "prompt", "right", held_out=True)
    served = [Served(question, card, "", 1e-5, 100, False) for card in ("a", "b", "a", "a")]
    arm = arm_of("router", served, np.ones(4), router_usd_per_million=0.02)
    assert arm.router == pytest.approx(np.full(4, 2e-6))
    assert arm.cost == pytest.approx(np.full(4, 1.2e-5))
    assert arm.shares == {"a": 0.75, "b": 0.25}


def test_an_interval_holds_the_mean() -> None:
    values = np.random.default_rng(1).normal(2.0, 1.0, 400)
    found = interval(values)
    assert found.low is not None and found.high is not None and found.value is not None
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(4 * 1.0 / 20, rel=0.2)


def test_the_table_shows_every_arm_and_the_file_holds_the_figures(tmp_path: Path) -> None:
    good, arms = router(np.arange(N)), fixed()
    everything = [*arms.values(), good]
    console = Console(file=io.StringIO(), width=140)
    report.show(console, everything, ["cheap", "dear"], cost_weight=0.5, c_ref=4e-5)
    found = report.gains(good, list(arms.values()), cost_weight=0.5, c_ref=4e-5)
    report.show_gains(console, good.name, found)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    line = next(line for line in shown.splitlines() if line.startswith("router  "))
    assert "1.000" in line and "0.0260" in line and line.count("50%") == 2
    path = tmp_path / "figures.json"
    report.write_json(path, everything, found, facts={"won": True})
    data = json.loads(path.read_text())
    assert data["won"] is True
    assert data["arms"][-1]["router_usd_per_1000"] == pytest.approx(0.001)
    assert data["gains"]["always cheap"]["score"]["value"] == pytest.approx(0.5)
