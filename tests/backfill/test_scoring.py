"""Scores of backfilled answers: kept apart from the answers, and done over for nothing."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.backfill.world import World
from xrouter_lg.backfill import BackfillError, Grader
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, Reply, ToolCall
from xrouter_lg.verifiers import UnprovenVerifierError, VerifierConfigError

MODULE = "tests.backfill.test_scoring"


@pytest.fixture
def world(tmp_path: Path, server: FakeOpenAIServer) -> World:
    return World(tmp_path, server, prompts=4)


def fails_on_two(answer: str, reference: Any) -> float:
    """A verifier of a user's own, with a bug."""
    if reference == "2":
        raise RuntimeError("two is too much")
    return float(answer == reference)


PROOF: dict[str, Any] = {
    "good": [{"answer": "5", "reference": "5"}],
    "bad": [{"answer": "6", "reference": "5"}],
}


NEVER: dict[str, Any] = {
    "verifier": "regex",
    "pattern": "never",
    "good": [{"answer": "never"}],
    "bad": [{"answer": "5"}],
}


async def test_a_verifier_that_fails_leaves_the_score_empty_and_says_why(world: World) -> None:
    spec = {"verifier": "function", "path": f"{MODULE}:fails_on_two", **PROOF}
    await world.run(grader=Grader.from_yaml(world.verifiers(spec)))
    assert world.outcome("p1", "medium")["score"] == 1.0
    row = world.outcome("p2", "medium")
    assert (row["score"], row["response"]) == (None, "2")
    assert row["scored_by"].startswith("unscored: ")
    assert "two is too much" in row["scored_by"]


async def test_without_a_verifier_answers_are_kept_and_scored_later_for_nothing(
    world: World,
) -> None:
    await world.run()
    assert world.outcome("p1", "medium")["scored_by"] == "unscored: no verifier was named"
    before = len(world.server.requests)
    tally = await world.run(grader=Grader.from_yaml(world.verifiers("exact")))
    assert (tally.calls, tally.graded, len(world.server.requests)) == (0, 8, before)
    assert world.outcome("p1", "medium")["score"] == 1.0
    assert world.outcomes.height == 12


async def test_other_verifiers_score_again_what_has_a_score(world: World) -> None:
    await world.run(grader=Grader.from_yaml(world.verifiers(NEVER)))
    assert world.outcome("p1", "medium")["score"] == 0.0
    before = len(world.server.requests)
    kept = await world.run(grader=Grader.from_yaml(world.verifiers("exact")))
    assert kept.graded == 0, "a score that is there stays unless asked"
    again = Grader.from_yaml(world.verifiers("exact"), again=True)
    tally = await world.run(grader=again, rescore=True)
    assert (tally.graded, len(world.server.requests)) == (8, before)
    assert world.outcome("p1", "medium")["score"] == 1.0
    assert world.outcome("p1", "large")["score"] == 1.0, "the trace's own outcome is not ours"
    assert world.outcome("p1", "large")["response"] == "a traced answer"


async def test_a_verdict_is_not_made_twice(world: World, tmp_path: Path) -> None:
    grader = world.verifiers("exact")
    await world.run(grader=Grader.from_yaml(grader))
    world.write_table([world.prompt(i) for i in range(4)])
    tally = await world.run(grader=Grader.from_yaml(grader))
    assert tally.graded == 0
    assert world.outcome("p1", "medium")["score"] == 1.0
    # Another reference is another question to the verifier, though not to the card.
    world.write_table([world.prompt(i, reference="9") for i in range(4)])
    tally = await world.run(grader=Grader.from_yaml(grader))
    assert tally.graded == 8
    assert world.outcome("p1", "medium")["score"] == 0.0


async def test_users_feedback_on_a_trace_is_no_score_of_another_cards_answer(world: World) -> None:
    meta = json.dumps({"feedback": [{"key": "user_score", "score": 1.0}]})
    world.write_table([world.prompt(0, meta=meta)])
    await world.run(grader=Grader.from_yaml(world.verifiers("feedback")))
    row = world.outcome("p0", "medium")
    assert row["score"] is None
    assert "no feedback" in row["scored_by"]


async def test_prompts_that_no_verifier_fits_stay_unscored(world: World) -> None:
    rules = world.verifiers({"verifier": "exact", "where": "elsewhere/*"})
    await world.run(grader=Grader.from_yaml(rules))
    assert world.outcome("p1", "medium")["scored_by"] == (
        "unscored: no verifier is for traces/numbers"
    )


async def test_a_verifier_that_misjudges_a_known_case_scores_nothing(world: World) -> None:
    wrong = {"verifier": "exact", "good": PROOF["bad"], "bad": PROOF["good"]}
    with pytest.raises(UnprovenVerifierError, match="exact"):
        await world.run(grader=Grader.from_yaml(world.verifiers(wrong)))
    assert world.server.requests == []


def test_a_verifiers_file_that_cant_be_read_is_named(world: World) -> None:
    with pytest.raises(VerifierConfigError, match=r"verifiers\.yaml: entry 1"):
        Grader.from_yaml(world.verifiers({"verifier": "exactly"}))


# A judge is paid too.


def judge(body: dict[str, Any]) -> Reply:
    """Right when what is framed as the answer is what is framed as the reference."""
    framed = dict(
        re.findall(r"--- (\w+) \w+ ---\n(.*?)\n--- end", body["messages"][-1]["content"], re.DOTALL)
    )
    verdict = {"reasoning": "compared", "score": framed["answer"] == framed["reference"]}
    if body.get("tools"):
        return Reply(None, [ToolCall(body["tools"][0]["function"]["name"], verdict)])
    return Reply(json.dumps(verdict))


@pytest.fixture
def judged(world: World, server: FakeOpenAIServer) -> dict[str, Any]:
    server.add_model(FakeModel(name="judge", reply=judge, prompt_tokens=300, completion_tokens=20))
    return {
        "verifier": "judge",
        "model": {
            "model": "judge",
            "base_url": server.base_url,
            "price": {"input": 1, "output": 1},
            "max_output_tokens": 50,
        },
    }


async def test_a_judges_calls_are_charged_to_the_same_budget(
    world: World, judged: dict[str, Any]
) -> None:
    rules = world.verifiers(judged)
    tally = await world.run(grader=Grader.from_yaml(rules))
    assert world.outcome("p1", "medium")["score"] == 1.0
    charges = [charge for charge in world.charges() if charge["kind"] == "judge"]
    made = [request for request in world.server.requests if request.model == "judge"]
    assert len(charges) == len(made) == 8 + 3, "eight verdicts, and the proof on three cases"
    assert sum(Decimal(charge["cost_usd"]) for charge in charges) == Decimal("0.00032") * 11
    assert tally.counted_usd == world.counted_usd()
    # Another run pays neither for the proof nor for a verdict.
    world.write_table([world.prompt(i) for i in range(4)])
    await world.run(grader=Grader.from_yaml(rules))
    assert len([r for r in world.server.requests if r.model == "judge"]) == len(made)


async def test_an_answer_is_not_bought_when_its_judge_cant_be_paid(
    world: World, judged: dict[str, Any], server: FakeOpenAIServer
) -> None:
    world.write_table([world.prompt(i) for i in range(8)])
    rules = world.verifiers(judged)
    with pytest.raises(BackfillError, match="prove itself on 3 cases"):
        await world.run("0.001", grader=Grader.from_yaml(rules))
    assert server.requests == []
    tally = await world.run("0.0122", grader=Grader.from_yaml(rules))
    assert tally.stopped == "budget"
    assert world.counted_usd() <= Decimal("0.0122")
    bought = world.outcomes.filter(world.outcomes["model"] != "large")
    assert bought.height == sum(tally.answered.values()) > 0
    assert bought["score"].null_count() == 0


async def test_a_judge_without_a_price_is_refused(world: World, judged: dict[str, Any]) -> None:
    del judged["model"]["price"]
    with pytest.raises(BackfillError, match="price of 'judge' is unknown"):
        await world.run(grader=Grader.from_yaml(world.verifiers(judged)))
