"""Live and mixed outcomes: real HTTP workers, real verifiers, one interface with replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

from training.data.reward import Reward
from training.grpo.asking import LiveOutcomes, LivePrompt
from training.grpo.episodes import EpisodeEnvironment, Sampling
from training.grpo.outcome_source import RecordedOutcomes
from xrouter_lg import ModelCard
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan
from xrouter_lg.verifiers.base import Verdict
from xrouter_lg.verifiers.text import Exact

REWARD = Reward(c_ref_usd=1e-3)


@pytest.fixture
def server() -> Iterator[FakeOpenAIServer]:
    models = [FakeModel(name="small", reply="4"), FakeModel(name="large", reply="5")]
    with FakeOpenAIServer(models) as running:
        yield running


def cards(server: FakeOpenAIServer, price: float = 100.0) -> list[ModelCard]:
    return [
        ModelCard(
            name=name,
            model=name,
            base_url=server.base_url,
            price={"input": price, "output": price},
            max_output_tokens=16,
            max_retries=0,
        )
        for name in ("small", "large")
    ]


def prompts() -> list[LivePrompt]:
    return [
        LivePrompt([HumanMessage("2 + 2")], Exact(), "4"),
        LivePrompt([HumanMessage("2 + 3")], Exact(), "5"),
    ]


def live(server: FakeOpenAIServer, **options: Any) -> LiveOutcomes:
    return LiveOutcomes(cards(server), prompts(), **{"budget_usd": 1.0, **options})


EVERY = (np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))


def test_calls_are_scored_and_priced(server: FakeOpenAIServer) -> None:
    outcomes = live(server)

    score, cost = outcomes.ask(*EVERY)

    assert score.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert (cost > 0).all()
    text = outcomes.answer(1, 1)
    assert text is not None and text.text == "5"


def test_episodes_over_workers_earn_what_the_same_recordings_earn(
    server: FakeOpenAIServer,
) -> None:
    outcomes = live(server)
    score, cost = (values.reshape(2, 2) for values in outcomes.ask(*EVERY))
    how = Sampling(permute=False)
    replayed = EpisodeEnvironment(RecordedOutcomes(score, cost), REWARD, sampling=how)
    called = EpisodeEnvironment(live(server), REWARD, sampling=how)
    episodes = replayed.sample(20, np.random.default_rng(0))
    same = called.sample(20, np.random.default_rng(0))
    slot_B = np.argmax(episodes.legal_B_S, axis=1)

    assert (same.card_B_S == episodes.card_B_S).all()
    assert np.allclose(called.step(same, slot_B).reward_B, replayed.step(episodes, slot_B).reward_B)


def test_a_pair_is_asked_once(server: FakeOpenAIServer) -> None:
    outcomes = live(server)

    outcomes.ask(np.array([0, 0, 0]), np.array([0, 0, 0]))
    outcomes.ask(np.array([0]), np.array([0]))

    assert outcomes.calls == len(server.requests) == 1


def test_a_journal_outlives_the_run_and_a_half_written_line(
    server: FakeOpenAIServer, tmp_path: Path
) -> None:
    journal = tmp_path / "run" / "live.jsonl"
    first = live(server, journal=journal).ask(*EVERY)
    with journal.open("a") as file:
        file.write('{"key": "cut')

    again = live(server, journal=journal)

    assert [v.tolist() for v in again.ask(*EVERY)] == [v.tolist() for v in first]
    assert again.calls == 0
    assert again.answer(0, 0) is not None


def test_a_worker_that_fails_gives_no_outcome_and_is_asked_again(
    server: FakeOpenAIServer,
) -> None:
    server.faults = FaultPlan.parse("small:500")
    outcomes = live(server)

    score, cost = outcomes.ask(np.array([0, 0]), np.array([0, 1]))
    assert np.isnan(score[0]) and score[1] == 0.0 and np.isnan(cost[0])

    score, _ = outcomes.ask(np.array([0]), np.array([0]))
    assert score.tolist() == [1.0]


def test_a_verifier_that_fails_gives_no_outcome(server: FakeOpenAIServer) -> None:
    class Broken:
        name = "broken"

        def __call__(self, answer: str, reference: Any = None, *, meta: Any = None) -> Verdict:
            return Verdict(None, "the judge is down")

    outcomes = LiveOutcomes(
        cards(server), [LivePrompt([HumanMessage("hi")], Broken())], budget_usd=1.0
    )
    environment = EpisodeEnvironment(outcomes, REWARD, sampling=Sampling(permute=False))
    episodes = environment.sample(1, np.random.default_rng(0))

    found = environment.step(episodes, np.argmax(episodes.legal_B_S, axis=1))

    assert np.isnan(found.reward_B).all()


def test_the_budget_is_never_exceeded_and_what_is_known_stays_askable(
    server: FakeOpenAIServer,
) -> None:
    # About 16 output and 100 prompt tokens are reserved, at 100 USD a million: two calls fit.
    outcomes = live(server, budget_usd=0.02, concurrency=4)

    score, _ = outcomes.ask(*EVERY)

    assert outcomes.refused > 0
    assert np.isnan(score).sum() == outcomes.refused
    remaining = outcomes.account.remaining
    assert remaining is not None and remaining >= 0
    assert len(server.requests) == outcomes.calls == 4 - outcomes.refused
    outcomes.account.reserve(remaining)
    assert (outcomes.askable().ravel() == ~np.isnan(score)).all()


def test_a_card_without_a_price_is_never_called(server: FakeOpenAIServer) -> None:
    free = ModelCard(name="free", model="no-such-model", base_url=server.base_url)
    outcomes = LiveOutcomes([free], prompts(), budget_usd=1.0)

    score, _ = outcomes.ask(np.array([0]), np.array([0]))

    assert np.isnan(score[0])
    assert server.requests == []
    assert not outcomes.askable().any()


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_a_budget_that_is_no_amount_is_refused(server: FakeOpenAIServer, budget: float) -> None:
    with pytest.raises(ValueError, match="budget_usd"):
        live(server, budget_usd=budget)
