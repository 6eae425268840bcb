from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.experiments.gate_error import (
    SETTINGS,
    STATED_MARGIN,
    STATED_PROMPTS,
    WEIGHT,
    MadeTraffic,
    better,
    informed,
    noise,
    promoted,
    prove,
    reference,
    twin,
    utilities,
    world,
)
from xrouter_lg.figures.curve import Curve
from xrouter_lg.judge.gate.rules import Contender, Guard, Rules, judge
from xrouter_lg.judge.gate.verdict import GateVerdict


@pytest.fixture
def where() -> MadeTraffic:
    return world(3000, np.random.default_rng(0))


def verdict(
    where: MadeTraffic, policy: Curve, *, knn: Contender | None = None, rules: Rules | None = None
) -> GateVerdict:
    weak = knn or Contender.of(informed(where, 0.0, "kNN"), WEIGHT)
    return judge(policy, where.test, reference(), rules or Rules(WEIGHT, draws=500), knn=weak)


def test_null_policies_are_promoted_at_most_one_time_in_twenty() -> None:
    for outcome in prove(policies=60, draws=400, sizes=(500,), margins=()):
        # The least favourable null passes 2.5 % in truth; 6 of 60 would be 1 chance in 300.
        assert outcome.promoted <= 5, outcome


def test_truly_better_policies_are_promoted_four_times_in_five() -> None:
    passed = sum(
        promoted(better(STATED_MARGIN), 2 * STATED_PROMPTS, seed, knn_share=0.25, draws=400)
        for seed in range(25)
    )
    assert passed >= 20


def test_the_stated_margin_is_the_true_one() -> None:
    best_fixed, all_known = utilities()
    where = world(400_000, np.random.default_rng(1))
    _, policy = better(0.03)(400_000, np.random.default_rng(2))
    mine, knn = Contender.of(policy, WEIGHT), Contender.of(informed(where, 0.25, "kNN"), WEIGHT)
    gap = [float((a.score - WEIGHT * a.cost / 0.004).mean()) for a in (mine, knn)]
    assert gap[0] - gap[1] == pytest.approx(0.03, abs=0.005)
    assert gap[1] == pytest.approx(best_fixed + 0.25 * (all_known - best_fixed), abs=0.004)


def test_a_good_policy_is_promoted_and_told_what_it_beat(where: MadeTraffic) -> None:
    found = verdict(where, informed(where, 0.9, "good"))
    assert found.promote and found.use == "good" and found.exit_code == 0
    assert [row.over for row in found.gains] == [
        "best fixed",
        "static mix",
        "cost-matched shuffle",
        "kNN",
    ]
    assert all(reason.startswith("Beats") for reason in found.reasons)


def test_a_policy_that_only_buys_dear_models_is_told_to_use_the_fixed_one() -> None:
    where, policy = noise(2000, np.random.default_rng(3))
    found = verdict(where, policy)
    assert not found.promote and found.exit_code == 1
    # At this cost weight the second model is the best to have.
    assert found.use == "the fixed model m1"


def test_a_policy_worse_than_knn_is_told_to_use_knn(where: MadeTraffic) -> None:
    knn = Contender.of(informed(where, 0.9, "my kNN"), WEIGHT)
    found = verdict(where, informed(where, 0.4, "middling"), knn=knn)
    assert found.use == "my kNN"
    assert found.reasons[0].startswith("Loses to kNN (my kNN)")


def test_production_stays_unless_it_is_beaten(where: MadeTraffic) -> None:
    production = Contender.of(informed(where, 0.8, "v1"), WEIGHT)
    rules = Rules(WEIGHT, draws=500)
    knn = Contender.of(informed(where, 0.2, "kNN"), WEIGHT)
    policy = informed(where, 0.8, "v2")
    found = judge(policy, where.test, reference(), rules, knn=knn, production=production)
    assert not found.promote and found.use == "v1"
    assert any("production (v1)" in reason for reason in found.reasons)


def test_beating_every_fixed_model_but_one_is_not_enough(where: MadeTraffic) -> None:
    """The best fixed model on train need not be the hardest at the user's cost weight."""
    copy = where.test.score[:, 1] * 1.0
    curve = Curve(
        "the second model",
        np.array(SETTINGS),
        np.tile(copy, (len(SETTINGS), 1)),
        np.tile(where.test.cost[:, 1], (len(SETTINGS), 1)),
    )
    found = verdict(where, curve)
    gain = {row.over: row.gain for row in found.gains}
    assert gain["best fixed"].above() and not gain["static mix"].above()
    assert not found.promote


def test_a_routers_own_cost_counts_on_both_sides_of_its_shuffle(where: MadeTraffic) -> None:
    free = informed(where, 0.9, "free")
    own = np.full_like(free.cost, 0.001)
    paid = Curve("paid", free.cost_weight, free.score, free.cost + own, free.choice, own)
    gains = [
        {row.over: row.gain.value for row in verdict(where, policy).gains}
        for policy in (free, paid)
    ]
    shuffle = "cost-matched shuffle"
    assert gains[0][shuffle] == pytest.approx(gains[1][shuffle])
    lost = WEIGHT * 0.001 / 0.004
    assert gains[0]["best fixed"] == pytest.approx((gains[1]["best fixed"] or 0.0) + lost)


def test_more_looks_at_the_same_test_half_widen_the_intervals(where: MadeTraffic) -> None:
    policy = informed(where, 0.9, "good")
    once = verdict(where, policy).gains[0].gain
    often = verdict(where, policy, rules=Rules(WEIGHT, draws=500, looks=20)).gains[0].gain
    assert often.low is not None and once.low is not None and often.low < once.low
    assert often.value == once.value


def harmed(where: MadeTraffic, loss: float) -> Curve:
    """A good policy that answers `loss` fewer of one kind of prompt."""
    good = informed(where, 0.95, "harmful")
    kind = where.kind == 0
    spoilt = kind & (np.random.default_rng(9).random(len(kind)) < loss)
    return Curve(
        good.name, good.cost_weight, np.where(spoilt, 0.0, good.score), good.cost, good.choice
    )


def guards(where: MadeTraffic, *, strict: bool = False) -> tuple[Guard, ...]:
    return tuple(
        Guard(f"kind {k}", where.kind == k, tolerance=0.03, strict=strict) for k in range(4)
    )


def test_a_harmed_slice_blocks_a_policy_that_is_better_on_average(where: MadeTraffic) -> None:
    rules = Rules(WEIGHT, draws=500, guards=guards(where))
    found = verdict(where, harmed(where, 0.35), rules=rules)
    assert all(row.gain.above() for row in found.gains)
    assert not found.promote
    assert [row.name for row in found.slices if row.blocks] == ["kind 0"]
    assert "'kind 0' loses more than its tolerance of 0.03" in found.reasons[0]


def test_a_harmless_policy_passes_its_guards(where: MadeTraffic) -> None:
    rules = Rules(WEIGHT, draws=500, guards=guards(where))
    assert verdict(where, informed(where, 0.95, "good"), rules=rules).promote


def test_a_strict_guard_wants_proof_of_safety() -> None:
    where = world(260, np.random.default_rng(4))
    policy = informed(where, 1.0, "good")
    lenient = verdict(where, policy, rules=Rules(WEIGHT, draws=500, guards=guards(where)))
    strict_rules = Rules(WEIGHT, draws=500, guards=guards(where, strict=True))
    strict = verdict(where, policy, rules=strict_rules)
    assert lenient.promote and any("may lose" in note for note in lenient.notes)
    assert not strict.promote


def test_a_slice_too_small_to_judge_is_said_to_be(where: MadeTraffic) -> None:
    few = np.zeros(len(where.test), dtype=bool)
    few[:5] = True
    rules = Rules(WEIGHT, draws=200, guards=(Guard("five", few),))
    found = verdict(where, informed(where, 0.9, "good"), rules=rules)
    assert found.promote
    assert found.notes == ("Slice 'five' has 5 prompts, too few to be guarded.",)


def test_a_broken_dial_blocks(where: MadeTraffic) -> None:
    good = informed(where, 0.9, "good")
    cost = good.cost.copy()
    cost[-1] += 0.01
    found = verdict(where, Curve("bent", good.cost_weight, good.score, cost, good.choice))
    assert not found.promote
    assert any("not monotone: cost rises" in reason for reason in found.reasons)


def test_few_settings_block(where: MadeTraffic) -> None:
    good = informed(where, 0.9, "good")
    keep = [0, 3, 8]
    assert good.choice is not None
    short = Curve(
        "short", good.cost_weight[keep], good.score[keep], good.cost[keep], good.choice[keep]
    )
    found = verdict(where, short)
    assert not found.promote and any("3 cost weights" in reason for reason in found.reasons)


def test_a_small_test_half_concludes_nothing() -> None:
    where = world(60, np.random.default_rng(0))
    assert not verdict(where, informed(where, 1.0, "good")).promote


def test_several_calls_are_judged_without_a_shuffle_and_it_is_said() -> None:
    where, policy = twin(500, np.random.default_rng(0))
    found = verdict(where, policy)
    assert "cost-matched shuffle" not in [row.over for row in found.gains]
    assert "could not be shuffled" in found.notes[-1]


def test_a_cost_weight_the_policy_was_not_run_at_is_refused(where: MadeTraffic) -> None:
    with pytest.raises(ValueError, match=r"no setting at cost weight 0\.2"):
        verdict(where, informed(where, 0.9, "good"), rules=Rules(0.2))


def test_an_inconclusive_verdict_says_how_many_prompts_would_do() -> None:
    where = world(500, np.random.default_rng(11))
    knn = Contender.of(informed(where, 0.5, "kNN"), WEIGHT)
    found = verdict(where, informed(where, 0.6, "slightly better"), knn=knn)
    assert not found.promote
    assert any("test prompts would show it" in reason for reason in found.reasons)


def test_a_verdict_is_json(where: MadeTraffic) -> None:
    found = json.loads(json.dumps(verdict(where, informed(where, 0.9, "good")).to_json()))
    assert found["promote"] is True and found["exit_code"] == 0
    assert found["gains"][0]["gain"]["value"] > 0
