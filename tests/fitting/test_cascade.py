"""Plans of calls: learned from recorded answers, carried out by the real graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from langchain_core.messages import HumanMessage
from typer.testing import CliRunner

from benchmarks.experiments.cascade_grpo import (
    PlanGrpo,
    SequencePolicy,
    advantages,
    improve,
    policy_curve,
)
from training.train import main
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.checkpoints.cascade_model import ANSWERS_FILE, AnswerModel
from xrouter_lg.checkpoints.folder import verify, write_checkpoint
from xrouter_lg.checkpoints.manifest import CheckpointError, Manifest
from xrouter_lg.checkpoints.parts import CardStats, CascadeStats
from xrouter_lg.cli import app
from xrouter_lg.fitting.cascade import Recorded, fit_answers, fit_difficulty
from xrouter_lg.fitting.cascade_choice import plan_curve, read_recorded
from xrouter_lg.fitting.family_head import head_stats
from xrouter_lg.outcomes.grid import OutcomeGrid
from xrouter_lg.policies.cascade.planner import Planner, partitions
from xrouter_lg.policies.cascade.policy import CascadePolicy, Plans
from xrouter_lg.testing import FakeModel, FakeOpenAIServer
from xrouter_lg.value.features import Features

CARDS = ("cheap_a", "cheap_b", "dear")
SUM = "what is 21 plus 22 in total"
USD = {"cheap_a": 1e-4, "cheap_b": 1e-4, "dear": 4e-3}


def recorded(folder: Path) -> Path:
    """Sums on which the cheap ones are right two times of three and agree only then (else each
    says its own nonsense); greetings that anyone can answer. The dear one is always right."""
    prompts, outcomes = [], []
    for n in range(240):
        kind = "sums" if n % 2 else "greetings"
        text = (
            f"what is {n} plus {n + 1} in total" if n % 2 else f"say hello to my friend {n} today"
        )
        key = {"source": "s", "task": kind, "prompt_id": str(n)}
        prompts.append({**key, "prompt": text, "category": kind})
        truth = str(2 * n + 1) if n % 2 else "hello"
        for i, card in enumerate(CARDS):
            right = kind == "greetings" or card == "dear" or n % 3 > 0
            answer = truth if right else f"{1000 * (i + 1) + n}"
            row = {**key, "model": card, "score": float(right), "cost_usd": USD[card]}
            outcomes.append({**row, "response": f"The answer is {answer}."})
    pl.DataFrame(prompts).write_parquet(folder / "prompts.parquet")
    pl.DataFrame(outcomes).write_parquet(folder / "outcomes.parquet")
    return folder


def write_cascade(folder: Path, model: AnswerModel, *, turns: int = 3) -> Path:
    """A checkpoint of a model of answers."""
    cards = tuple(
        CardStats(name, "", 1.0, 0.0, 0.0, USD[name], model.prices.get(name)) for name in CARDS
    )
    manifest = Manifest(
        kind="cascade",
        cards=cards,
        c_ref_usd=model.c_ref_usd,
        best_fixed="dear",
        family_head=head_stats(model.head, Features.of([SUM, "say hello"]), share=1.0),
        cascade=CascadeStats(ANSWERS_FILE, turns=turns),
    )
    write_checkpoint(folder, manifest, model.write)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def data(folder: Path) -> tuple[OutcomeGrid, Recorded]:
    return read_recorded(folder)


@pytest.fixture(scope="module")
def model(data: tuple[OutcomeGrid, Recorded]) -> AnswerModel:
    return fit_answers(*data)


@pytest.fixture(scope="module")
def file(model: AnswerModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cascade(tmp_path_factory.mktemp("plans") / "plans", model)


def test_equal_numbers_are_equal_final_answers_and_none_agrees_with_nothing() -> None:
    groups = Recorded.of([["so it is 4", "**Answer:** 4", "5", None, "I can't say"]]).group_N_M
    assert groups[0, 0] == groups[0, 1] != groups[0, 2]
    assert len(set(groups[0].tolist())) == 4


def test_the_fit_finds_the_skills_that_made_the_scores() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 4000)
    level = np.array([[1.5, 0.0, -1.5], [0.0, 1.5, -1.5]])[kind]
    chance = 1 / (1 + np.exp(-(level + 1.6 * rng.standard_normal((4000, 1)))))
    score = (rng.random(chance.shape) < chance).astype(float)
    right, posterior = fit_difficulty(score, kind, 2)
    weight = np.array([posterior[kind == f].mean(0) for f in range(2)])
    made = np.array([chance[kind == f].mean(0) for f in range(2)])
    np.testing.assert_allclose(np.einsum("fqm,fq->fm", right, weight), made, atol=0.03)
    # Difficulty is shared: two cards are right together more often than by chance.
    both = np.einsum("fq,fq,fq->f", weight, right[:, :, 0], right[:, :, 1])
    seen = np.array([(score[kind == f, 0] * score[kind == f, 1]).mean() for f in range(2)])
    np.testing.assert_allclose(both, seen, atol=0.03)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_states_of_every_set_of_cards_have_probability_one(
    model: AnswerModel, size: int
) -> None:
    assert len(partitions(size)) == [1, 2, 5, 15][size - 1]
    planner = Planner(model, range(3), size)
    start = 0
    for k in range(1, planner.most + 1):
        step = len(partitions(k))
        sets = [1, 3, 3, 1][k]
        mass = planner.seen[start : start + sets * step].sum(2).reshape(sets, step, -1).sum(1)
        np.testing.assert_allclose(mass, 1.0, atol=1e-5)
        start += sets * step
    assert start == planner.states


def test_values_are_those_of_playing_the_plan_out(model: AnswerModel) -> None:
    """Worlds are drawn from the model itself: what a plan is said to be worth is what it earns."""
    plans, rng, weight, shares = Plans(model), np.random.default_rng(1), 0.05, (0.0, 1.0)
    planner = plans.planner(range(3), 3)
    values = plans.values(range(3), shares, weight, turns=3)
    share_Q_B = model.share_F_Q[1][:, None] * model.length_share_F_Q_B[1]
    earned = []
    for _ in range(6000):
        at = rng.choice(share_Q_B.size, p=share_Q_B.ravel() / share_Q_B.sum())
        q, length_bin = divmod(int(at), model.bins)
        right = rng.random(3) < model.right_F_Q_M[1, q]
        usual = rng.random(3) < np.where(right, model.same_right_F[1], model.same_wrong_F[1])
        group = np.where(usual, np.where(right, 0, 1), np.arange(2, 5))
        called = list(values.first)
        for left in (1, 0):
            state, seats = planner.state(called, group[called].tolist())
            further = planner.next_card(values, state, length_bin, left)
            if further is None:
                break
            called.append(further)
        taken = called[seats.index(int(values.group_T_B[state, length_bin]))]
        ratio = np.where(np.isin(called, values.first), 1.0, model.usd_ratio_F_B[1, length_bin])
        usd = (model.usd_F_M[1, called] * ratio).sum()
        earned.append(float(right[taken]) - weight * usd / model.c_ref_usd)
    assert np.mean(earned) == pytest.approx(values.utility, abs=0.02)


def test_no_plan_with_more_turns_is_worth_less(model: AnswerModel) -> None:
    plans = Plans(model)
    worth = [plans.values(range(3), (0.0, 1.0), 0.1, turns=turns).utility for turns in (1, 2, 3, 4)]
    assert worth == sorted(worth)
    assert worth[2] > worth[0] + 0.02, "two that agree are worth more than one"


def test_learned_plans_beat_every_single_card(data: tuple[OutcomeGrid, Recorded]) -> None:
    table, recorded = data
    half = (np.arange(240) // 2) % 2 == 0
    first, second = np.flatnonzero(half), np.flatnonzero(~half)
    fitted = fit_answers(table.rows(first), recorded.rows(first))
    curve = plan_curve(fitted, table.rows(second), recorded.rows(second))
    best = min(curve.points.tolist(), key=lambda point: (-point[1], point[0]))
    assert best[1] == 1.0  # as right as the dear one alone ...
    assert best[0] < 0.25 * USD["dear"]  # ... at less than a quarter of its cost
    costs = curve.points[:, 0]
    assert (np.diff(costs) <= 1e-12).all(), "a larger cost weight never costs more"


def test_a_plan_file_reads_back_as_it_was(file: Path, model: AnswerModel) -> None:
    read = AnswerModel.of(verify(file), file)
    assert (read.cards, read.head.families) == (model.cards, model.head.families)
    assert read.c_ref_usd == model.c_ref_usd
    np.testing.assert_allclose(read.right_F_Q_M, model.right_F_Q_M, rtol=1e-6)
    np.testing.assert_allclose(read.usd_F_M, model.usd_F_M, rtol=1e-6)
    assert read.head.probabilities(SUM)[0] == model.head.probabilities(SUM)[0]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_damaged_answers_are_refused(model: AnswerModel, tmp_path: Path, content: bytes) -> None:
    (write_cascade(tmp_path / "x", model) / "answers.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"'answers.safetensors' has sha256 .* copy it again"):
        CascadePolicy(tmp_path / "x")


def node(file: Path, server: FakeOpenAIServer, **options: Any) -> XRouterNode:
    price = {"cheap_a": 1, "cheap_b": 1, "dear": 40}
    pool = ModelPool(
        [
            ModelCard(
                name=card,
                model=card,
                base_url=server.base_url,
                price={"input": price[card], "output": price[card]},
            )
            for card in CARDS
        ],
        default="dear",
    )
    return XRouterNode(pool, policy=CascadePolicy(file), **{"max_turns": 3, **options})


def ask(routed: XRouterNode, text: str) -> tuple[str, dict[str, Any]]:
    message = routed.invoke({"messages": [HumanMessage(text)]})["messages"][-1]
    return str(message.content), message.response_metadata["xrouter"]


def called(record: dict[str, Any]) -> list[str]:
    return sorted(charge["card"] for charge in record["charges"])


def serve(**replies: str) -> FakeOpenAIServer:
    return FakeOpenAIServer([FakeModel(name=card, reply=replies[card]) for card in CARDS])


def test_two_that_agree_are_believed(file: Path) -> None:
    with serve(cheap_a="It is 43.", cheap_b="Answer: 43", dear="43") as server:
        text, record = ask(node(file, server, cost_weight=0.1), SUM)
    assert text == "It is 43."
    assert called(record) == ["cheap_a", "cheap_b"]


def test_two_that_differ_are_settled_by_the_dear_one(file: Path) -> None:
    with serve(cheap_a="It is 41.", cheap_b="Answer: 44", dear="43") as server:
        text, record = ask(node(file, server, cost_weight=0.1), SUM)
    assert text == "43"
    assert record["route"] == "dear"
    assert called(record) == ["cheap_a", "cheap_b", "dear"]


def test_an_easy_kind_is_asked_once(file: Path) -> None:
    with serve(cheap_a="hello", cheap_b="hello", dear="hello") as server:
        _, record = ask(node(file, server, cost_weight=3.0), "say hello to my friend 7 today")
    assert len(called(record)) == 1
    assert called(record)[0].startswith("cheap")


def test_with_one_turn_it_routes_by_kind(file: Path) -> None:
    with serve(cheap_a="41", cheap_b="44", dear="43") as server:
        text, record = ask(node(file, server, max_turns=1), SUM)
    assert (text, called(record)) == ("43", ["dear"])


def test_a_card_that_is_not_there_is_planned_around(file: Path) -> None:
    with serve(cheap_a="41", cheap_b="44", dear="43") as server:
        routed = node(file, server, cost_weight=0.03)
        state = routed.invoke(
            {"messages": [HumanMessage(SUM)]}, {"configurable": {"deny": ["cheap_b"]}}
        )
    record = state["messages"][-1].response_metadata["xrouter"]
    assert called(record) == ["dear"]


def test_a_failed_cheap_call_costs_an_escalation_not_the_request(file: Path) -> None:
    with FakeOpenAIServer(
        [FakeModel(name="cheap_a", reply="41"), FakeModel(name="dear", reply="43")]
    ) as server:  # cheap_b is not served: 404
        text, record = ask(node(file, server, cost_weight=0.03), SUM)
    assert text == "43"
    assert record["cost_usd"] is not None


def test_a_price_that_rises_is_followed_at_once(
    data: tuple[OutcomeGrid, Recorded], tmp_path: Path
) -> None:
    then = {card: {"input": "1", "output": "1"} for card in CARDS}
    then["dear"] = {"input": "0.4", "output": "0.4"}  # today's is a hundred times that
    write_cascade(tmp_path / "p", fit_answers(*data, prices=then))
    with serve(cheap_a="41", cheap_b="44", dear="43") as server:
        _, before = ask(node(tmp_path / "p", server, cost_weight=0.001), SUM)
        _, after = ask(node(tmp_path / "p", server, cost_weight=0.1), SUM)
    assert "dear" in called(before)
    assert "dear" not in called(after)


def test_the_command_judges_and_writes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "plans"
    command = ["train", str(folder), "--cascade", "--splits", "2", "--output", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "gain over the static mix +" in done.output
    assert CascadePolicy(out).plans.model.cards == CARDS
    assert CliRunner().invoke(app, ["train", str(tmp_path), *command[2:]]).exit_code == 2


def test_a_training_run_writes_the_same_plans(folder: Path, tmp_path: Path) -> None:
    config = Path(__file__).resolve().parents[2] / "training" / "configs" / "cascade.yaml"
    output = [f"outcomes={folder}", f"output={tmp_path / 'run'}"]
    assert main(["--config", str(config), *output, "--dry-run"]) == 0
    assert main(["--config", str(config), *output]) == 0
    assert CascadePolicy(tmp_path / "run" / "checkpoint").plans.model.cards == CARDS
    assert main(["--config", str(config), *output, "grpo.steps=5"]) == 2


def test_group_advantages_are_those_of_trl_without_scaling() -> None:
    found = advantages(np.array([[1.0, 0.0, 0.5], [0.2, 0.2, 0.2]]))
    np.testing.assert_allclose(found, [[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]], atol=1e-12)


def test_grpo_unlearns_a_costly_habit(
    data: tuple[OutcomeGrid, Recorded], model: AnswerModel
) -> None:
    """A policy that asks the dear card first, whatever the price, learns better of it."""
    table, recorded = data
    policy = SequencePolicy(model, "planned")
    local = policy.weight_D.reshape(2 * policy.kinds, -1)
    local[: policy.kinds, CARDS.index("dear")] = 0.3
    settings = PlanGrpo(
        steps=12, prompts_per_step=8, validate_every=4, learning_rate=0.05, temperature=0.2
    )
    validated = improve(policy, table, recorded, settings)
    assert len(validated) == 4
    assert max(validated) > validated[0] + 0.02


def test_a_policy_without_corrections_is_its_plan(
    data: tuple[OutcomeGrid, Recorded], model: AnswerModel
) -> None:
    table, recorded = data
    few, answers = table.rows(np.arange(30)), recorded.rows(np.arange(30))
    planned = plan_curve(model, few, answers)
    studied = policy_curve(SequencePolicy(model, "planned"), few, answers)
    np.testing.assert_allclose(studied.score, planned.score)
    np.testing.assert_allclose(studied.cost, planned.cost)


def _as_log(folder: Path, to: Path, whole: int) -> Path:
    """The recorded table where a log called one card, at random, of all but the first prompts."""
    to.mkdir()
    number = pl.col("prompt_id").cast(pl.Int64)
    drawn = pl.Series(np.random.default_rng(1).choice(CARDS, 240)).to_list()
    table = pl.read_parquet(folder / "outcomes.parquet")
    own = pl.Series(
        [drawn[int(n)] == card for n, card in table.select("prompt_id", "model").rows()]
    )
    log = table.with_columns(propensity=pl.when(number < whole).then(None).otherwise(1 / 3)).filter(
        own | (number < whole)
    )
    log.write_parquet(to / "outcomes.parquet")
    (to / "prompts.parquet").write_bytes((folder / "prompts.parquet").read_bytes())
    return to


def _judge(checkpoint: Path, log: Path) -> tuple[int, str]:
    done = CliRunner().invoke(
        app,
        ["judge", "--checkpoint", str(checkpoint), "--cost-weight", "0.3", "--json",
         "--outcomes", str(log / "outcomes.parquet"), "--prompts", str(log / "prompts.parquet")],
    )  # fmt: skip
    return done.exit_code, done.output


def test_plans_are_judged_on_the_prompts_of_a_log_that_all_cards_answered(
    folder: Path, file: Path, tmp_path: Path
) -> None:
    code, said = _judge(file, _as_log(folder, tmp_path / "log", 80))
    assert code == 0, said
    found = json.loads(said)
    assert [pool["prompts"] for pool in found["pools"]] == [80]
    assert found["prompts_without_figures"] == 160

    code, said = _judge(file, _as_log(folder, tmp_path / "less", 20))
    assert code == 2
    assert "the log has 20 and 50 are needed" in said


def test_plans_of_one_call_are_judged_on_a_log(
    folder: Path, model: AnswerModel, tmp_path: Path
) -> None:
    once = write_cascade(tmp_path / "once", model, turns=1)
    code, said = _judge(once, _as_log(folder, tmp_path / "log", 0))
    assert code == 0, said
    assert json.loads(said)["pools"][0]["verdict"]["requests"] == 240
