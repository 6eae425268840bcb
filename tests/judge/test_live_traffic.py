"""Shadows and canaries judged from a real store: graphs run, the recorder writes, commands read."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage
from typer.testing import CliRunner

from tests.support import apps
from tests.support.apps import Says
from tests.tracing.routed import a_record
from xrouter_lg import ModelPool, Proposal, Recorder, TraceStore, XRouterNode
from xrouter_lg.cli import app
from xrouter_lg.episodes.rows import prompt_id
from xrouter_lg.judge.traffic.arms import MIN_THREADS, judge_arms
from xrouter_lg.judge.traffic.logged import LiveRequest, read_traffic, thread_mean
from xrouter_lg.judge.traffic.shadow import MIN_JUDGED, judge_shadow
from xrouter_lg.outcomes import OutcomeTable
from xrouter_lg.policies.rollout.canary import CanaryPolicy, in_share
from xrouter_lg.policies.rollout.shadow import ShadowPolicy

WAIT_S = 60.0
runner = CliRunner()


def pool() -> ModelPool:
    return ModelPool([apps.scripted("small"), apps.scripted("large")])


def is_hard(text: str) -> bool:
    return text.startswith("hard")


def picks(choose: Callable[[str], str], version: str) -> Says:
    def propose(request: Any, cards: Any) -> Proposal:
        wanted = choose(str(request.messages[-1].text))
        return Proposal({card.name: float(card.name == wanted) for card in cards})

    says = Says(propose)
    says.version = version  # type: ignore[misc]
    return says


def score_of(text: str, card: str) -> float:
    """The truth of this little world: large is always right, small on easy ones."""
    return 1.0 if card == "large" or not is_hard(text) else 0.0


def texts(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"{rng.choice(['hard', 'easy'])} question {number}" for number in range(count)]


def run(
    path: Path,
    policy: Any,
    prompts: Sequence[str],
    *,
    per_thread: int = 1,
    feedback: bool = True,
    exploration: float = 0.0,
) -> None:
    """Each prompt through a real graph into a real store, with the user's word on each answer."""
    with Recorder(path) as recorder:
        node = XRouterNode(pool(), policy=policy, traces=recorder, exploration=exploration)
        node.router._random.seed(1)
        graph = apps.app(node)
        said = []
        for number, text in enumerate(prompts):
            config = apps.options(thread_id=f"t{number // per_thread}")
            state = graph.invoke({"messages": [HumanMessage(text)]}, config)
            found = apps.record(state)
            said.append((found["trace_id"], score_of(text, found["route"])))
        recorder.flush(30)
        for trace, score in said if feedback else ():
            recorder.store.record_feedback(trace, "good", score)


def read(path: Path, **options: Any) -> list[LiveRequest]:
    with TraceStore(path) as store:
        return read_traffic(store, **{"feedback": "good", **options}).requests


def table_of(path: Path, to: Path, card: str = "large") -> Path:
    """What a backfill of one card would have found."""
    rows, prompts = [], []
    for request in read(path):
        assert request.prompt_id is not None and request.text is not None
        key = {"source": "default", "task": "traces", "prompt_id": request.prompt_id}
        score = score_of(request.text, card)
        rows.append({**key, "model": card, "score": score, "cost_usd": 0.0004})
        prompts.append({**key, "prompt": request.text})
    OutcomeTable.from_rows(rows, prompts).write(to)
    return to


def made(
    number: int,
    text: str,
    card: str,
    *,
    propensity: float = 1.0,
    arm: dict[str, Any] | None = None,
    shadow: str | None = None,
) -> LiveRequest:
    """A request of which only the record is made up, where a real one would take too long."""
    usd = {"small": 0.0001, "large": 0.0004}
    proposal = {
        "policy": "says",
        "policy_version": "careful",
        "status": "proposed",
        "route": shadow,
        "calls": [{"card": shadow}],
        "select": None,
        "direct": False,
        "estimates_usd": usd,
        "latency_s": 0.01,
        "cost_usd": "0",
    }
    decision = {"calls": [{"card": card}], "select": None, "direct": False}
    record = a_record(
        route=card,
        propensity=propensity,
        decisions=[{**decision, "shadow": proposal if shadow else None}],
        cost_usd=str(usd[card]),
        worker_cost_usd=str(usd[card]),
        arm=arm,
    )
    return LiveRequest(f"t{number}", record, text, str(number), score_of(text, card))


def costly_shadow() -> ShadowPolicy:
    """Serves small always; the shadow would take large for hard ones."""
    careful = picks(lambda text: "large" if is_hard(text) else "small", "careful")
    return ShadowPolicy("fixed:small", careful, wait_s=WAIT_S)


@pytest.fixture(scope="module")
def shadowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shadowed") / "t.db"
    run(path, costly_shadow(), texts(64))
    return path


def test_what_the_shadow_would_have_done(shadowed: Path) -> None:
    hard = sum(map(is_hard, texts(64)))
    report = judge_shadow(read(shadowed))
    assert (report.policy, report.version) == ("says", "careful")
    assert (report.requests, report.threads, report.status) == (64, 64, {"proposed": 64})
    assert report.agreement.value == pytest.approx(1 - hard / 64)
    assert report.served_shares == {"small": 1.0}
    assert report.shadow_shares["large"] == pytest.approx(hard / 64)
    assert report.usd_by == {"same route": 64 - hard, "estimate": hard}
    assert report.usd_difference.above(0)
    assert report.shadow_paid_usd == 0 and report.shadow_unpriced == 0


def test_without_outcomes_of_the_other_card_it_concludes_nothing(shadowed: Path) -> None:
    report = judge_shadow(read(shadowed))
    assert report.score.value is None
    assert "0 of" in (report.score.refused or "") and "backfill" in (report.score.refused or "")
    assert "--checkpoint" in (report.utility.refused or "")
    # Served greedily: the log holds nothing of what the shadow would have done otherwise.
    assert report.off_policy_score is not None
    assert report.off_policy_score.snips is None and report.off_policy_score.refused


def test_with_a_backfilled_table_the_difference_is_the_true_one(
    shadowed: Path, tmp_path: Path
) -> None:
    from xrouter_lg.judge.traffic.logged import read_outcomes

    known = read_outcomes([table_of(shadowed, tmp_path / "table")])
    requests = read(shadowed)
    truth = np.mean([is_hard(r.text or "") for r in requests])  # large is right there, small wrong
    report = judge_shadow(requests, outcomes=known, c_ref_usd=0.01, cost_weight=0.5)
    assert report.score.value is not None
    assert report.score.value.value == pytest.approx(truth)
    assert report.score.value.low < truth < report.score.value.high  # type: ignore[operator]
    assert report.usd_by["outcome table"] == round(truth * 64)
    small = np.mean([r.worker_usd or 0 for r in requests])
    expected = truth * (1 - 0.5 * (0.0004 - small) / 0.01)
    assert report.utility.value is not None
    assert report.utility.value.value == pytest.approx(expected, abs=1e-3)


def explored(count: int, rate: float) -> list[LiveRequest]:
    """Small served, large drawn at ``rate``; the shadow takes large for hard ones."""
    rng = random.Random(7)
    found = []
    for number, text in enumerate(texts(count)):
        card = "large" if rng.random() < rate else "small"
        chance = rate if card == "large" else 1 - rate
        wanted = "large" if is_hard(text) else "small"
        found.append(made(number, text, card, propensity=chance, shadow=wanted))
    return found


def test_exploration_makes_off_policy_estimates_right() -> None:
    found = judge_shadow(explored(1500, 0.3)).off_policy_score
    assert found is not None and found.refused is None and found.snips is not None
    # The shadow is right everywhere; what was served is not.
    assert found.snips.value == pytest.approx(1.0)
    assert found.ips is not None and found.ips.low is not None and found.ips.high is not None
    assert found.ips.low < 1.0 < found.ips.high
    assert found.logged.value == pytest.approx(0.65, abs=0.05)


def test_too_little_exploration_is_refused() -> None:
    found = judge_shadow(explored(120, 0.1)).off_policy_score
    assert found is not None and found.snips is None
    assert "Log more" in (found.refused or "")


def test_what_could_not_be_drawn_is_not_estimated() -> None:
    """The log keeps what each card's probability was: large had none in most requests, and their
    weights alone would not tell."""
    found = []
    for request in explored(1500, 0.3):
        (decision,) = request.record.decisions
        able = {"small": 0.7, "large": 0.3}
        explore = able if decision["calls"][0]["card"] == "large" else {"small": 0.7}
        known = replace(request.record, decisions=[{**decision, "explore": explore}])
        found.append(replace(request, record=known))
    refused = judge_shadow(found).off_policy_score
    assert refused is not None and refused.snips is None
    assert "never takes" in (refused.refused or "")


async def test_what_was_drawn_from_comes_back_with_later_feedback(tmp_path: Path) -> None:
    """The user's word comes after the trace is closed, and finds it by its id."""
    path = tmp_path / "t.db"
    careful = picks(lambda text: "large" if is_hard(text) else "small", "careful")
    run(path, ShadowPolicy("fixed:small", careful, wait_s=WAIT_S), texts(330), exploration=1.0)
    requests = read(path)
    for request in requests:
        assert request.score == score_of(str(request.text), str(request.card))
        assert request.first["explore"] == {"small": 0.75, "large": 0.25}
        assert request.record.propensity == request.first["explore"][request.card]
    report = judge_shadow(requests)
    found = report.off_policy_score
    assert found is not None and found.refused is None and found.ips is not None
    assert found.ips.low is not None and found.ips.high is not None
    assert found.ips.low < 1.0 < found.ips.high


async def test_explored_requests_are_recorded_with_their_propensity(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    careful = picks(lambda text: "large" if is_hard(text) else "small", "careful")
    served = picks(lambda _text: "small", "served")
    run(path, ShadowPolicy(served, careful, wait_s=WAIT_S), texts(12), exploration=1.0)
    requests = read(path)
    # Half of the policy's own choice, half even: 0.75 and 0.25.
    expected = {"small": 0.75, "large": 0.25}
    assert {r.record.propensity for r in requests if r.card == "large"} <= {0.25}
    assert all(r.record.propensity == expected[str(r.card)] for r in requests)
    assert any(r.first["explored"] for r in requests)


def test_few_disagreements_are_refused(tmp_path: Path) -> None:
    from xrouter_lg.judge.traffic.logged import read_outcomes

    path = tmp_path / "t.db"
    run(path, costly_shadow(), texts(24))
    known = read_outcomes([table_of(path, tmp_path / "table")])
    report = judge_shadow(read(path), outcomes=known)
    assert report.score.value is None and 0 < report.score.judged < MIN_JUDGED


def test_a_shadow_that_is_often_late_or_fails_is_said_so(tmp_path: Path) -> None:
    def broken(_request: Any, _cards: Any) -> Proposal:
        raise RuntimeError("no weights")

    path = tmp_path / "t.db"
    shadow = Says(broken)
    shadow.version = "b"  # type: ignore[misc]
    run(path, ShadowPolicy("fixed:small", shadow, wait_s=WAIT_S), texts(5))
    report = judge_shadow(read(path))
    assert report.status == {"failed": 5}
    assert "no weights" in report.notes[0]
    assert report.agreement.value is None


def test_intervals_are_over_threads_and_not_over_requests() -> None:
    # Ten threads that each say one thing a hundred times are worth ten, not a thousand.
    values = np.repeat(np.array([0.0, 1.0] * 5), 100)
    threads = np.repeat([f"t{n}" for n in range(10)], 100).tolist()
    grouped = thread_mean(values, threads, draws=400, seed=0)
    alone = thread_mean(values, [str(n) for n in range(1000)], draws=400, seed=0)

    def width(figure: Any) -> float:
        return float(figure.high - figure.low)

    assert width(grouped) > 5 * width(alone)


def test_the_shadow_command_prints_and_gives_json(shadowed: Path, tmp_path: Path) -> None:
    table = table_of(shadowed, tmp_path / "table")
    shown = runner.invoke(app, ["shadow", "--store", str(shadowed)])
    assert shown.exit_code == 0, shown.output
    assert "agreement" in shown.output and "refused" in shown.output
    args = ["shadow", "--store", str(shadowed), "--feedback", "good", "--outcomes", str(table)]
    found = runner.invoke(app, [*args, "--c-ref-usd", "0.01", "--json"])
    assert found.exit_code == 0, found.output
    data = json.loads(found.output)
    assert data["score"]["value"]["value"] > 0.3
    assert data["utility"]["refused"] is None


def test_a_store_without_shadows_or_canaries_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    run(path, "fixed:small", texts(2))
    for command, words in (("shadow", "shadow:MAIN,SHADOW"), ("canary", "canary:MAIN")):
        found = runner.invoke(app, [command, "--store", str(path)])
        assert found.exit_code == 2 and words in found.output
        found = runner.invoke(app, [command, "--store", str(tmp_path / "none.db")])
        assert found.exit_code == 2


# --- the arms of a canary


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tried") / "t.db"
    policy = CanaryPolicy("fixed:small", "fixed:large", share=0.4)
    run(path, policy, texts(40, seed=3))
    return path


def arms(count: int, share: float, main: str, candidate: str) -> list[LiveRequest]:
    """Two requests a thread, assigned as the policy assigns."""
    found = []
    for number, text in enumerate(texts(count, seed=3)):
        thread = number // 2
        side = "candidate" if in_share(f"t{thread}", share, "canary") else "main"
        arm = {
            "arm": side,
            "propensity": share if side == "candidate" else 1 - share,
            "unit": "thread",
            "salt": "canary",
        }
        card = candidate if side == "candidate" else main
        found.append(made(thread, text, card, arm=arm))
    return found


def test_the_arms_are_compared_with_intervals() -> None:
    report = judge_arms(arms(400, 0.4, "small", "large"), c_ref_usd=0.01, cost_weight=0.1)
    assert (report.salt, report.share) == ("canary", pytest.approx(0.4))
    assert report.main.requests + report.candidate.requests == 400
    assert report.main.threads + report.candidate.threads == 200
    assert report.refused == {}
    score = report.differences["score"]
    assert score is not None and score.low is not None and score.high is not None
    assert 0.35 < score.low < 0.5 < score.high < 0.65  # large is right on the hard half too
    usd = report.differences["usd"]
    assert usd is not None and usd.value == pytest.approx(0.0003)
    utility = report.differences["utility"]
    assert utility is not None and score.value is not None
    assert utility.value == pytest.approx(score.value - 0.1 * 0.0003 / 0.01)
    assert report.notes == []


def test_a_real_canary_is_read_back_as_it_was_served(tried: Path) -> None:
    report = judge_arms(read(tried))
    assert report.main.requests + report.candidate.requests == 40
    assert report.main.policies == {"fixed small": report.main.requests}
    assert report.candidate.policies == {"fixed large": report.candidate.requests}
    assert report.candidate.means["score"].value == 1.0
    wanted = sum(in_share(f"t{n}", 0.4, "canary") for n in range(40))
    assert report.candidate.threads == wanted


def test_two_equal_arms_differ_by_nothing_that_an_interval_excludes() -> None:
    found = judge_arms(arms(400, 0.5, "small", "small")).differences["score"]
    assert found is not None and found.low is not None and found.high is not None
    assert found.low < 0 < found.high


def test_too_few_threads_conclude_nothing() -> None:
    report = judge_arms(arms(60, 0.5, "small", "large"))
    assert report.differences["score"] is None
    assert str(MIN_THREADS) in report.refused["score"]


def test_requests_that_are_missing_of_one_arm_are_noticed() -> None:
    whole = arms(600, 0.4, "small", "large")
    kept = [r for r in whole if in_share(r.thread, 0.1, "canary") or not on_candidate(r)]
    (note,) = judge_arms(kept).notes
    assert "are missing" in note


def on_candidate(request: LiveRequest) -> bool:
    assert request.record.arm is not None
    return bool(request.record.arm["arm"] == "candidate")


def test_a_share_that_was_changed_is_noticed() -> None:
    changed = [*arms(100, 0.1, "small", "large"), *arms(100, 0.9, "small", "large")]
    notes = judge_arms(changed).notes
    assert any("changed sides" in note for note in notes)
    assert any("the share was changed" in note for note in notes)


def test_the_canary_command_prints_and_gives_json(tried: Path) -> None:
    args = ["canary", "--store", str(tried), "--feedback", "good"]
    shown = runner.invoke(app, args)
    assert shown.exit_code == 0, shown.output
    assert "candidate - main" in shown.output and "refused" in shown.output  # no unit: no utility
    data = json.loads(runner.invoke(app, [*args, "--json"]).output)
    assert data["candidate"]["means"]["score"]["value"] == 1.0
    assert "threads" in data["refused"]["score"] and data["differences"]["utility"] is None


def test_prompt_ids_are_those_of_outcome_tables(shadowed: Path) -> None:
    from xrouter_lg.episodes.extract import episodes

    with TraceStore(shadowed) as store:
        trace = next(iter(store.iter_traces()))
    (episode,) = episodes(trace.runs, trace.feedback)
    assert read(shadowed)[0].prompt_id == prompt_id(episode)
