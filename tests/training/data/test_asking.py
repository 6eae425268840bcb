"""Live and mixed outcomes: real HTTP workers, real verifiers, one interface with replay."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from contextlib import closing, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.messages import HumanMessage

from tests.backfill.test_scoring import judge
from training.config.asking import LiveConfig
from training.config.run import RunConfig
from training.config.sampling import Sampling
from training.data.asking import LiveOutcomes, LivePrompt
from training.data.checks import check_settings
from training.data.outcome_source import RecordedOutcomes
from training.data.reward import Reward
from training.grpo.episodes import EpisodeEnvironment
from xrouter_lg import ModelCard
from xrouter_lg.backfill import AnswerCache, AnswerKey, Asker, BackfillError, Conversation, Order
from xrouter_lg.calls.ledger import RequestAccount
from xrouter_lg.calls.tokens import prompt_size
from xrouter_lg.errors import ConfigurationError
from xrouter_lg.testing import FakeModel, FakeOpenAIServer, FaultPlan
from xrouter_lg.verifiers.base import Verdict
from xrouter_lg.verifiers.judge import Judge
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


def test_what_was_paid_for_outlives_the_run(server: FakeOpenAIServer, tmp_path: Path) -> None:
    answers = tmp_path / "run" / "live.db"
    with closing(live(server, answers=answers)) as outcomes:
        first = outcomes.ask(*EVERY)
        spent = outcomes.account.spent

    with closing(live(server, answers=answers)) as again:
        assert [v.tolist() for v in again.ask(*EVERY)] == [v.tolist() for v in first]
        assert again.calls == 0
        assert again.answer(0, 0) is not None
        assert again.account.spent == spent > 0, "the budget goes on where it was"


def test_a_call_whose_process_died_counts_with_its_worst_case(
    server: FakeOpenAIServer, tmp_path: Path
) -> None:
    answers = tmp_path / "live.db"
    with AnswerCache(answers) as cache:
        cache.begin(cards(server)[0], Decimal("0.75"), kind="backfill", key=AnswerKey("b", 0, 16))

    with closing(live(server, answers=answers)) as outcomes:
        assert outcomes.account.spent == Decimal("0.75")


def test_a_second_run_on_the_same_answers_is_refused(
    server: FakeOpenAIServer, tmp_path: Path
) -> None:
    answers = tmp_path / "live.db"
    with (
        closing(live(server, answers=answers)),
        pytest.raises(BackfillError, match="another run is using"),
    ):
        live(server, answers=answers)


def test_equal_prompts_are_one_call_even_at_once(server: FakeOpenAIServer) -> None:
    outcomes = LiveOutcomes(cards(server), [prompts()[0], prompts()[0]], budget_usd=1.0)

    score, _ = outcomes.ask(np.array([0, 1]), np.array([0, 0]))

    assert score.tolist() == [1.0, 1.0]
    assert outcomes.calls == len(server.requests) == 1


def test_a_backfill_and_a_live_run_share_their_answers(
    server: FakeOpenAIServer, tmp_path: Path
) -> None:
    with AnswerCache(tmp_path / "live.db") as cache:
        asker = Asker(cache, RequestAccount(None))
        said = Conversation((HumanMessage("2 + 2"),))
        order = Order.of(cards(server)[0], said, prompt_size(said.messages))
        asyncio.run(asker.ask(order, asker.account.reserve(order.worst_usd or Decimal(0))))

    with closing(live(server, answers=tmp_path / "live.db")) as outcomes:
        score, _ = outcomes.ask(np.array([0]), np.array([0]))
    assert score.tolist() == [1.0]
    assert len(server.requests) == 1


def test_a_worker_that_fails_gives_no_outcome_and_is_asked_again(
    server: FakeOpenAIServer,
) -> None:
    server.faults = FaultPlan.parse("small:500")
    outcomes = live(server)

    score, cost = outcomes.ask(np.array([0, 0]), np.array([0, 1]))
    assert np.isnan(score[0]) and score[1] == 0.0 and np.isnan(cost[0])

    score, _ = outcomes.ask(np.array([0]), np.array([0]))
    assert score.tolist() == [1.0]


class Broken:
    name = "broken"
    down = True

    def __call__(self, answer: str, reference: Any = None, *, meta: Any = None) -> Verdict:
        return Verdict(None, "the judge is down") if self.down else Verdict(1.0)


def test_a_verifier_that_fails_gives_no_outcome(server: FakeOpenAIServer) -> None:
    outcomes = LiveOutcomes(
        cards(server), [LivePrompt([HumanMessage("hi")], Broken())], budget_usd=1.0
    )
    environment = EpisodeEnvironment(outcomes, REWARD, sampling=Sampling(permute=False))
    episodes = environment.sample(1, np.random.default_rng(0))

    found = environment.step(episodes, np.argmax(episodes.legal_B_S, axis=1))

    assert np.isnan(found.reward_B).all()


def test_an_answer_whose_verifier_failed_is_judged_again_but_not_bought_again(
    server: FakeOpenAIServer,
) -> None:
    verifier = Broken()
    outcomes = LiveOutcomes(
        cards(server), [LivePrompt([HumanMessage("hi")], verifier)], budget_usd=1.0
    )
    outcomes.ask(np.array([0]), np.array([0]))
    verifier.down = False

    score, _ = outcomes.ask(np.array([0]), np.array([0]))

    assert score.tolist() == [1.0]
    assert len(server.requests) == 1


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


def judged(server: FakeOpenAIServer) -> LivePrompt:
    server.add_model(FakeModel(name="judge", reply=judge, prompt_tokens=300, completion_tokens=20))
    verifier = Judge(
        model=ModelCard(
            name="judge",
            model="judge",
            base_url=server.base_url,
            price={"input": 1, "output": 1},
            max_output_tokens=50,
        )
    )
    return LivePrompt([HumanMessage("2 + 2")], verifier, "4")


def test_a_judges_verdict_is_paid_from_the_same_budget_and_once(
    server: FakeOpenAIServer, tmp_path: Path
) -> None:
    prompt, first = judged(server), (np.array([0]), np.array([0]))
    for _ in range(2):
        with closing(
            LiveOutcomes(cards(server), [prompt], budget_usd=1.0, answers=tmp_path / "live.db")
        ) as outcomes:
            score, cost = outcomes.ask(*first)
            assert score.tolist() == [1.0]
            assert outcomes.account.spent == Decimal(str(cost[0])) + Decimal("0.00032")
    assert [request.model for request in server.requests] == ["small", "judge"]


def test_an_answer_is_not_bought_when_its_judge_cant_be_paid(server: FakeOpenAIServer) -> None:
    outcomes = LiveOutcomes(cards(server, price=1.0), [judged(server)], budget_usd=0.001)

    score, _ = outcomes.ask(np.array([0]), np.array([0]))

    assert np.isnan(score[0])
    assert outcomes.refused == 1
    assert server.requests == []


def test_a_card_whose_window_is_too_short_is_never_called(server: FakeOpenAIServer) -> None:
    small, large = cards(server)
    long = LivePrompt([HumanMessage("word " * 2000)], Exact(), "4")
    short_window = dataclasses.replace(small, context_window=500)
    outcomes = LiveOutcomes([short_window, large], [long], budget_usd=10.0)

    score, _ = outcomes.ask(np.array([0, 0]), np.array([0, 1]))

    assert outcomes.askable().tolist() == [[False, True]]
    assert np.isnan(score[0]) and score[1] == 0.0
    assert [request.model for request in server.requests] == ["large"]


@pytest.mark.parametrize("count", [1, 2])
def test_only_a_run_of_one_process_calls_live(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(count))
    config = RunConfig(live=LiveConfig(budget_usd=1.0, verifiers="verifiers.yaml"))
    with nullcontext() if count == 1 else pytest.raises(ConfigurationError, match="2 processes"):
        check_settings(config)


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
