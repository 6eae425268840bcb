"""Whom the demo's app hears from."""

from __future__ import annotations

from pathlib import Path

import pytest

from integrations.demo.questions import load
from integrations.demo.replay import RecordedModels, replay_server
from integrations.demo.users import THUMBS, WRONG, ReplayedJudge, Users
from integrations.demo.workers import write_judge
from xrouter_lg.verifiers import Suite


def test_a_third_of_the_answers_get_a_thumb_of_which_a_tenth_are_wrong() -> None:
    users = Users(seed=4)
    said = [
        (truth, users.thumb(f"{truth}-{n}", truth)) for n in range(3000) for truth in (0.0, 1.0)
    ]
    heard = [(truth, thumb) for truth, thumb in said if thumb is not None]
    assert len(heard) / len(said) == pytest.approx(THUMBS, abs=0.02)
    wrong = sum(truth != thumb for truth, thumb in heard) / len(heard)
    assert wrong == pytest.approx(WRONG, abs=0.02)


def test_a_thumb_is_the_same_whenever_it_is_asked_for() -> None:
    ids = [f"request {n}" for n in range(50)]
    once = [Users(1).thumb(one, 1.0) for one in ids]
    assert once == [Users(1).thumb(one, 1.0) for one in ids]
    assert once != [Users(2).thumb(one, 1.0) for one in ids]


def test_the_judge_proves_itself_and_is_wrong_as_often_as_users(tmp_path: Path) -> None:
    history = load(per_family=6)
    models = RecordedModels(history)
    judge = ReplayedJudge(models.score, seed=3)
    with replay_server(models, judge=judge) as server:
        write_judge(tmp_path / "judge.yaml", server.base_url)
        with Suite.from_yaml(tmp_path / "judge.yaml") as suite:
            assert all(not report.problems for report in suite.check())
            verifier = suite.verifier_for("any", "traces")
            assert verifier is not None
            agreed = []
            for (prompt, _), answer in history.answers.items():
                verdict = verifier(answer.text, None, meta={"prompt": prompt})
                assert verdict.charges[0].cost_usd == 0
                agreed.append(verdict.score == answer.score)
    assert 1 - sum(agreed) / len(agreed) == pytest.approx(WRONG, abs=0.06)
