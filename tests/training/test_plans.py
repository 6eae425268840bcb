"""Plans of calls: learned from recorded answers, carried out by the real graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from langchain_core.messages import HumanMessage

from training.judge.table import Paired, read_paired
from training.plans import agreement, fit_plans, main, near_hull, plan_curve, play, read_answers
from xrouter_lg import ModelCard, ModelPool, XRouterNode
from xrouter_lg.errors import PolicyConfigError
from xrouter_lg.policies.plans import Plan, PlanPolicy, PlanTable
from xrouter_lg.testing import FakeModel, FakeOpenAIServer

CARDS = ("cheap_a", "cheap_b", "dear")
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded(tmp_path_factory.mktemp("recorded"))


@pytest.fixture(scope="module")
def table(folder: Path) -> Paired:
    return read_paired(folder / "outcomes.parquet", folder / "prompts.parquet")


@pytest.fixture(scope="module")
def answers(folder: Path, table: Paired) -> list[list[str | None]]:
    return read_answers(folder / "outcomes.parquet", table)


@pytest.fixture(scope="module")
def file(table: Paired, answers: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plans") / "plans.safetensors"
    fit_plans(table, answers).save(path)
    return path


def test_agreement_is_of_final_answers_and_no_answer_agrees_with_nothing() -> None:
    same = agreement([["so it is 4", "**Answer:** 4", "5", None]])
    assert same[0, 0, 1]
    assert not same[0, 0, 2]
    assert not same[0, 3].any()


def test_every_call_of_a_plan_is_paid(table: Paired, answers: Any) -> None:
    played = play(table, agreement(answers), CARDS)
    assert len(played.plans) == 3 + 3 * 3
    p = played.plans.index(Plan("cheap_a", "cheap_b", "dear"))
    dispute = np.array([t.startswith("what") and int(t.split()[2]) % 3 == 0 for t in table.prompts])
    np.testing.assert_allclose(
        played.usd_P_N_M[p].sum(1), np.where(dispute, 4.2e-3, 2e-4), rtol=1e-5
    )
    assert played.score_P_N[p].mean() == 1.0


def test_kept_are_the_singles_and_what_lies_near_the_hull(table: Paired, answers: Any) -> None:
    played = play(table, agreement(answers), CARDS)
    kept = {played.plans[p] for p in near_hull(played, np.arange(len(table)))}
    assert {Plan(card) for card in CARDS} <= kept
    assert Plan("cheap_a", "cheap_b", "dear") in kept
    assert Plan("cheap_a", "dear", "cheap_b") not in kept


def test_learned_plans_beat_every_single_card(table: Paired, answers: Any) -> None:
    train, test = table.rows(np.arange(0, 240, 2)), table.rows(np.arange(1, 240, 2))
    curve = plan_curve(fit_plans(train, answers[::2]), test, answers[1::2])
    best = curve.points[curve.points[:, 1].argmax()]
    assert best[1] == 1.0  # as right as the dear one alone ...
    assert best[0] < 0.4 * USD["dear"]  # ... at less than half its cost
    costs = curve.points[:, 0]
    assert (np.diff(costs) <= 1e-12).all(), "a larger cost weight never costs more"


def test_a_plan_file_reads_back_as_it_was(file: Path, table: Paired, answers: Any) -> None:
    read, made = PlanTable.load(file), fit_plans(table, answers)
    assert read.plans == made.plans
    assert read.c_ref_usd == made.c_ref_usd
    np.testing.assert_array_equal(read.quality_F_P, made.quality_F_P)
    np.testing.assert_array_equal(read.usd_F_P_M, made.usd_F_P_M)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_what_is_no_plan_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(PolicyConfigError, match="is no plan file"):
        PlanPolicy(tmp_path / "x")


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
    return XRouterNode(pool, policy=PlanPolicy(file), **{"max_turns": 3, **options})


def ask(routed: XRouterNode, text: str) -> tuple[str, dict[str, Any]]:
    message = routed.invoke({"messages": [HumanMessage(text)]})["messages"][-1]
    return str(message.content), message.response_metadata["xrouter"]


def called(record: dict[str, Any]) -> list[str]:
    return sorted(charge["card"] for charge in record["charges"])


def serve(**replies: str) -> FakeOpenAIServer:
    return FakeOpenAIServer([FakeModel(name=card, reply=replies[card]) for card in CARDS])


SUM = "what is 21 plus 22 in total"


def test_two_that_agree_are_believed(file: Path) -> None:
    with serve(cheap_a="It is 43.", cheap_b="Answer: 43", dear="43") as server:
        text, record = ask(node(file, server), SUM)
    assert text == "It is 43."
    assert called(record) == ["cheap_a", "cheap_b"]


def test_two_that_differ_are_settled_by_the_dear_one(file: Path) -> None:
    with serve(cheap_a="It is 41.", cheap_b="Answer: 44", dear="43") as server:
        text, record = ask(node(file, server), SUM)
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
        routed = node(file, server)
        state = routed.invoke(
            {"messages": [HumanMessage(SUM)]}, {"configurable": {"deny": ["cheap_b"]}}
        )
    record = state["messages"][-1].response_metadata["xrouter"]
    assert called(record) == ["dear"]


def test_a_failed_cheap_call_costs_an_escalation_not_the_request(file: Path) -> None:
    with FakeOpenAIServer(
        [FakeModel(name="cheap_a", reply="41"), FakeModel(name="dear", reply="43")]
    ) as server:  # cheap_b is not served: 404
        text, record = ask(node(file, server), SUM)
    assert text == "43"
    assert record["cost_usd"] is not None


def test_a_price_that_rises_is_followed_at_once(
    table: Paired, answers: Any, tmp_path: Path
) -> None:
    then = {card: {"input": "1", "output": "1"} for card in CARDS}
    then["dear"] = {"input": "0.4", "output": "0.4"}  # today's is a hundred times that
    fit_plans(table, answers, prices=then).save(tmp_path / "p.safetensors")
    with serve(cheap_a="41", cheap_b="44", dear="43") as server:
        _, before = ask(node(tmp_path / "p.safetensors", server, cost_weight=0.001), SUM)
        _, after = ask(node(tmp_path / "p.safetensors", server, cost_weight=0.1), SUM)
    assert "dear" in called(before)
    assert "dear" not in called(after)


def test_the_command_judges_and_writes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plans.safetensors"
    assert main(["--outcomes", str(folder), "--splits", "2", "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "gain over the zero router +" in printed
    assert PlanPolicy(out).table.plans
    assert main(["--outcomes", str(tmp_path / "none")]) == 2
